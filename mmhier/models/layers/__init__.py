from .attention import SelfAttention, attend
from .mlp import Mlp
from .position_bias import relative_position_bias
from .windows import (may_need_padding, merge_windows, partition_windows,
                      window_key_mask)

__all__ = [
    'Mlp', 'SelfAttention', 'attend', 'may_need_padding', 'merge_windows',
    'partition_windows', 'relative_position_bias', 'window_key_mask'
]
