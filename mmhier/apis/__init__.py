"""What the tools call: read a config, check it, train or test."""
from .arguments import parse_tool_args, tool_parser
from .checking import check_config
from .config import load_config, set_data_root
from .data_checks import check_data
from .errors import UserError, run_tool
from .inference import infer
from .model_names import register_model_names
from .testing import test
from .training import train

__all__ = [
    'UserError', 'check_config', 'check_data', 'infer', 'load_config',
    'parse_tool_args', 'register_model_names', 'run_tool', 'set_data_root',
    'test', 'tool_parser', 'train'
]
