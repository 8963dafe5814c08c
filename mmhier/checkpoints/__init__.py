from .converting import convert_for_model, convert_model_state_dict
from .files import convert_checkpoint_file, publish_checkpoint_file
from .loading import LoadReport, load_backbone_weights, match_backbone_weights
from .official import OfficialWeights, official_name, official_weights
from .reading import read_checkpoint, unwrap_state_dict
from .resolving import resolve_checkpoint

__all__ = [
    'LoadReport', 'OfficialWeights', 'convert_checkpoint_file',
    'convert_for_model', 'convert_model_state_dict', 'load_backbone_weights',
    'match_backbone_weights', 'official_name', 'official_weights',
    'publish_checkpoint_file', 'read_checkpoint', 'resolve_checkpoint',
    'unwrap_state_dict'
]
