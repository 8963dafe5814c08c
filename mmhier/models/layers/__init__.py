from .activated import ActivatedLinear, activated_conv, activated_linear
from .attention import SelfAttention, attend
from .bands import (
    apply_in_bands,
    row_bands,
    whole_maps,
)
from .branch_gate import BranchGate
from .deformable_merging import DeformableMerging
from .dilated_depthwise import DilatedDepthwiseConv
from .dynamic import pad_for_stride
from .grid_attention import attend_grid
from .linear import Linear, convolve, fuses_activations, linear
from .mlp import Mlp
from .position_bias import relative_position_bias, resize_bias_table
from .tracing import is_traced
from .windows import (
    may_need_padding,
    merge_windows,
    partition_windows,
    window_key_mask,
)

__all__ = [
    'ActivatedLinear',
    'BranchGate',
    'DeformableMerging',
    'DilatedDepthwiseConv',
    'Linear',
    'Mlp',
    'SelfAttention',
    'activated_conv',
    'activated_linear',
    'apply_in_bands',
    'attend',
    'attend_grid',
    'convolve',
    'fuses_activations',
    'is_traced',
    'linear',
    'may_need_padding',
    'merge_windows',
    'pad_for_stride',
    'partition_windows',
    'relative_position_bias',
    'resize_bias_table',
    'row_bands',
    'whole_maps',
    'window_key_mask',
]
