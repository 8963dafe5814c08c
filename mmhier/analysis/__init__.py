from .complexity import Complexity, count_complexity
from .whole_models import InferencePass, count_config_complexity

__all__ = [
    'Complexity', 'InferencePass', 'count_complexity', 'count_config_complexity'
]
