"""Functions behind the commands: check a config, train, test, infer."""
from mmhier.datasets.data_checks import check_data
from mmhier.engine.config import load_config, set_data_root
from mmhier.errors import MMHierError, run_tool
from mmhier.zoo import config_path
from .checking import check_config
from .inference import infer
from .predictor import Prediction, Predictor
from .testing import test
from .training import train

__all__ = [
    'MMHierError', 'Prediction', 'Predictor', 'check_config', 'check_data',
    'config_path', 'infer', 'load_config', 'run_tool', 'set_data_root', 'test',
    'train'
]
