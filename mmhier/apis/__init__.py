"""Functions behind the commands: check a config, train, test, infer."""
from mmhier.datasets.data_checks import check_data
from mmhier.engine.config import load_config, set_data_root
from mmhier.engine.model_names import register_model_names
from mmhier.errors import MMHierError, run_tool
from .checking import check_config
from .inference import infer
from .testing import test
from .training import train

__all__ = [
    'MMHierError', 'check_config', 'check_data', 'infer', 'load_config',
    'register_model_names', 'run_tool', 'set_data_root', 'test', 'train'
]
