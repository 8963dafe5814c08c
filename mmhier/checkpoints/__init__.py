from .converting import convert_model_state_dict
from .files import convert_checkpoint_file
from .loading import LoadReport, load_backbone_weights, match_backbone_weights
from .reading import CheckpointError, read_checkpoint, unwrap_state_dict

__all__ = [
    'CheckpointError', 'LoadReport', 'convert_checkpoint_file',
    'convert_model_state_dict', 'load_backbone_weights',
    'match_backbone_weights', 'read_checkpoint', 'unwrap_state_dict'
]
