from .converting import convert_model_state_dict
from .files import convert_checkpoint_file, publish_checkpoint_file
from .loading import LoadReport, load_backbone_weights, match_backbone_weights
from .naming import CheckpointError, find_checkpoint
from .reading import read_checkpoint, unwrap_state_dict

__all__ = [
    'CheckpointError', 'LoadReport', 'convert_checkpoint_file',
    'convert_model_state_dict', 'find_checkpoint', 'load_backbone_weights',
    'match_backbone_weights', 'publish_checkpoint_file', 'read_checkpoint',
    'unwrap_state_dict'
]
