from .attention import SelfAttention, attend, split_heads
from .cuda.casts import call_block
from .deformable_merging import DeformableMerging
from .dilated_depthwise import DilatedDepthwiseConv
from .dynamic import (
    any_size,
    average_cells,
    call_compiled,
    crop,
    max_cells,
    may_need_padding,
    pad_for_stride,
    resize,
)
from .gate import BranchGate
from .grid_attention import attend_grid
from .linear import Conv, DepthwiseConv, Linear, PointwiseConv
from .mlp import Mlp
from .norm import GlobalNorm
from .patch_embed import PatchEmbed
from .position_bias import (
    relative_position_bias,
    resize_bias_table,
    window_position_bias,
)
from .recompute import recompute_block
from .sequence import by_rows, sequence
from .tied_gradients import tie_gradients
from .windows import (
    merge_windows,
    partition_windows,
    shared_masks,
    window_mask,
)

__all__ = [
    'BranchGate',
    'Conv',
    'DeformableMerging',
    'DepthwiseConv',
    'DilatedDepthwiseConv',
    'GlobalNorm',
    'Linear',
    'Mlp',
    'PatchEmbed',
    'PointwiseConv',
    'SelfAttention',
    'any_size',
    'attend',
    'attend_grid',
    'average_cells',
    'by_rows',
    'call_block',
    'call_compiled',
    'crop',
    'max_cells',
    'may_need_padding',
    'merge_windows',
    'pad_for_stride',
    'partition_windows',
    'recompute_block',
    'relative_position_bias',
    'resize',
    'resize_bias_table',
    'sequence',
    'shared_masks',
    'split_heads',
    'tie_gradients',
    'window_mask',
    'window_position_bias',
]
