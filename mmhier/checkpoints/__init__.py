from .converting import convert_model_state_dict
from .loading import LoadReport, load_backbone_weights
from .reading import CheckpointError, read_checkpoint, unwrap_state_dict

__all__ = [
    'CheckpointError', 'LoadReport', 'convert_model_state_dict',
    'load_backbone_weights', 'read_checkpoint', 'unwrap_state_dict'
]
