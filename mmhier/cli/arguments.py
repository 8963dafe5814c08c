"""Command-line arguments that the tools share."""
import argparse
import os
from collections.abc import Sequence

from mmengine.config import DictAction


def tool_parser(description: str) -> argparse.ArgumentParser:
    """Parser with the config and the arguments of every tool that runs one.

    Args:
        description (str): What the tool does, with examples; printed as
            it is.

    Returns:
        argparse.ArgumentParser: To be extended by the tool, then given to
        :func:`parse_tool_args`.
    """
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'config', help='config file, for mmdet, mmseg or mmpretrain')
    parser.add_argument(
        '--work-dir',
        help='where logs and checkpoints go; defaults to work_dir of the '
        'config, then to work_dirs/NAME_OF_THE_CONFIG')
    parser.add_argument(
        '--data-root',
        metavar='DIR',
        help='use the data in DIR, laid out as in data_root of the config, '
        'for every dataset and evaluator')
    parser.add_argument(
        '--classes',
        nargs='+',
        metavar='NAME',
        help='classes of your own data in the order of the labels, or a .txt '
        'file with a name a line; "auto" takes the categories of the COCO '
        'json or the names of the class folders. Sets the classes of every '
        'dataset and num_classes of the model')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override keys of the config, such as '
        'train_dataloader.batch_size=4 or key="[a,b]"; wins over --data-root')
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='how the processes of a distributed job were started; defaults '
        'to none')
    # torch.distributed.launch passes the second spelling.
    parser.add_argument(
        '--local_rank', '--local-rank', type=int, help=argparse.SUPPRESS)
    return parser


def parse_tool_args(parser: argparse.ArgumentParser,
                    argv: Sequence[str] | None = None) -> dict:
    """Parse arguments as keyword arguments for mmhier.apis.

    Args:
        parser (argparse.ArgumentParser): Made by :func:`tool_parser`.
        argv (Sequence[str], optional): Defaults to None, ``sys.argv[1:]``.

    Returns:
        dict: Arguments by name, ``local_rank`` apart: mmengine reads it from
        the environment.
    """
    try:
        arguments = vars(parser.parse_args(argv))
    except ValueError:
        parser.error('--cfg-options: expected KEY=VALUE')
    local_rank = arguments.pop('local_rank')
    if local_rank is not None:
        os.environ.setdefault('LOCAL_RANK', str(local_rank))
    return arguments
