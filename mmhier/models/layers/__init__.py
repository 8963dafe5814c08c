from .attention import SelfAttention, attend
from .mlp import Mlp
from .position_bias import relative_position_bias
from .windows import merge_windows, partition_windows, window_key_mask

__all__ = [
    'Mlp', 'SelfAttention', 'attend', 'merge_windows', 'partition_windows',
    'relative_position_bias', 'window_key_mask'
]
