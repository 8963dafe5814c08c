"""What the tools call: read a config, check it, train or test."""
from .arguments import parse_tool_args, tool_parser
from .config import load_config, set_data_root
from .data_checks import check_data
from .errors import UserError, run_tool
from .testing import test
from .training import train

__all__ = [
    'UserError', 'check_data', 'load_config', 'parse_tool_args', 'run_tool',
    'set_data_root', 'test', 'tool_parser', 'train'
]
