"""What the tools call: read a config, check it, train or test."""
from mmhier.cli.arguments import parse_tool_args, tool_parser
from mmhier.datasets.data_checks import check_data
from mmhier.engine.config import load_config, set_data_root
from mmhier.engine.model_names import config_path
from mmhier.errors import MMHierError, run_tool
from .checking import check_config
from .inference import infer
from .testing import test
from .training import train

__all__ = [
    'MMHierError', 'check_config', 'check_data', 'config_path', 'infer',
    'load_config', 'parse_tool_args', 'run_tool', 'set_data_root', 'test',
    'tool_parser', 'train'
]
