from .attention import SelfAttention, attend
from .branch_gate import BranchGate
from .dilated_depthwise import DilatedDepthwiseConv
from .grid_attention import attend_grid
from .mlp import Mlp
from .position_bias import relative_position_bias
from .windows import (
    may_need_padding,
    merge_windows,
    partition_windows,
    window_key_mask,
)

__all__ = [
    'BranchGate', 'DilatedDepthwiseConv', 'Mlp', 'SelfAttention', 'attend',
    'attend_grid', 'may_need_padding', 'merge_windows', 'partition_windows',
    'relative_position_bias', 'window_key_mask'
]
