"""Arguments that several commands share, each stated once."""
import argparse
import os
from collections.abc import Sequence
from typing import Any


class CfgOptions(argparse.Action):
    """mmengine's DictAction, imported only where the option is given."""

    def __call__(self,
                 parser: argparse.ArgumentParser,
                 namespace: argparse.Namespace,
                 values: str | Sequence[Any] | None,
                 option_string: str | None = None) -> None:
        from mmengine.config import DictAction
        action = DictAction(self.option_strings, self.dest, nargs='+')
        try:
            action(parser, namespace, values, option_string)
        except ValueError as error:
            raise argparse.ArgumentError(
                self,
                f'expected KEY=VALUE, got {" ".join(values or ())}') from error


class LocalRank(argparse.Action):
    """Set LOCAL_RANK, from which mmengine reads it."""

    def __call__(self,
                 parser: argparse.ArgumentParser,
                 namespace: argparse.Namespace,
                 values: str | Sequence[Any] | None,
                 option_string: str | None = None) -> None:
        os.environ.setdefault('LOCAL_RANK', str(values))


def command_parser(command: str,
                   description: str | None) -> argparse.ArgumentParser:
    """Parser of a command.

    Args:
        command (str): Its name behind ``mmhier``.
        description (str, optional): Docstring of its module; printed as is.
    """
    return argparse.ArgumentParser(
        prog=f'mmhier {command}',
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter)


def add_config(parser: argparse.ArgumentParser, **kwargs: Any) -> None:
    """Add CONFIG."""
    parser.add_argument(
        'config',
        help='config file, or name of a config of mmhier such as '
        'mask-rcnn_hatnet-tiny_fpn_1x_coco',
        **kwargs)


def add_checkpoint(parser: argparse.ArgumentParser, **kwargs: Any) -> None:
    """Add CHECKPOINT."""
    parser.add_argument(
        'checkpoint', **{
            'help':
            'checkpoint file, URL, or name of official weights (`mmhier '
            'weights list`)',
            **kwargs
        })


def add_optional_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Add CHECKPOINT, which defaults to the config's official weights."""
    add_checkpoint(
        parser,
        nargs='?',
        default='official',
        help='checkpoint file, URL, or name of official weights (`mmhier '
        'weights list`); defaults to `official`, those of the config')


def add_amp(parser: argparse.ArgumentParser) -> None:
    """Add --amp and --amp-dtype."""
    parser.add_argument(
        '--amp', action='store_true', help='compute in mixed precision')
    parser.add_argument(
        '--amp-dtype',
        choices=['float16', 'bfloat16'],
        help='precision of --amp, which it implies; defaults to bfloat16 on '
        'CPUs and to float16 elsewhere')


def add_cfg_options(parser: argparse.ArgumentParser, **kwargs: Any) -> None:
    """Add --cfg-options."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptions,
        metavar='KEY=VALUE',
        help='override keys of the config, such as '
        'train_dataloader.batch_size=4 or key="[a,b]"; wins over --data-root',
        **kwargs)


def add_classes(parser: argparse.ArgumentParser) -> None:
    """Add --classes for training and testing."""
    parser.add_argument(
        '--classes',
        nargs='+',
        metavar='NAME',
        help='classes of your own data in the order of the labels, or a .txt '
        'file with a name a line; "auto" takes the categories of the COCO '
        'json or the names of the class folders. Sets the classes of every '
        'dataset and num_classes of the model')


def add_trained_classes(parser: argparse.ArgumentParser) -> None:
    """Add --classes for a model that is trained already."""
    parser.add_argument(
        '--classes',
        nargs='+',
        metavar='NAME',
        help='classes that the model was trained on, or a .txt file with a '
        'name a line, if they are not those of the config')


def add_data_root(parser: argparse.ArgumentParser) -> None:
    """Add --data-root."""
    parser.add_argument(
        '--data-root',
        metavar='DIR',
        help='use the data in DIR, laid out as in data_root of the config, '
        'for every dataset and evaluator')


def add_data_format(parser: argparse.ArgumentParser) -> None:
    """Add --data-format."""
    parser.add_argument(
        '--data-format',
        choices=['yolo', 'voc'],
        help='format of --data-root, a set of boxes or outlines, if not that '
        'of the config; implies --classes auto')


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add --device."""
    parser.add_argument(
        '--device', help='cpu, cuda:0, ...; defaults to a GPU if there is one')


def add_from_scratch(parser: argparse.ArgumentParser) -> None:
    """Add --from-scratch."""
    parser.add_argument(
        '--from-scratch',
        action='store_true',
        help='start from random weights, not from those that init_cfg names')


def add_launcher(parser: argparse.ArgumentParser) -> None:
    """Add --launcher, and the rank that launchers pass."""
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='launcher of a distributed job; defaults to none')
    # torch.distributed.launch passes the second spelling.
    parser.add_argument(
        '--local_rank',
        '--local-rank',
        type=int,
        action=LocalRank,
        default=argparse.SUPPRESS,
        help=argparse.SUPPRESS)


def add_overwrite(parser: argparse.ArgumentParser, text: str) -> None:
    """Add --overwrite.

    Args:
        parser (argparse.ArgumentParser): Parser of a command.
        text (str): Help, such as 'replace existing files'.
    """
    parser.add_argument('--overwrite', action='store_true', help=text)


def add_predictions(parser: argparse.ArgumentParser) -> None:
    """Add --score-thr and --top-k."""
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        help='lowest score of an instance; defaults to 0.3')
    parser.add_argument(
        '--top-k',
        type=int,
        default=5,
        help='classes that a classifier reports; defaults to 5')


def add_tta(parser: argparse.ArgumentParser) -> None:
    """Add --tta."""
    parser.add_argument(
        '--tta',
        action='store_true',
        help='test-time augmentation by tta_model and tta_pipeline of the '
        'config')


def add_work_dir(parser: argparse.ArgumentParser) -> None:
    """Add --work-dir."""
    parser.add_argument(
        '--work-dir',
        metavar='DIR',
        help='folder of logs and checkpoints; defaults to work_dir of the '
        'config, then to work_dirs/NAME_OF_THE_CONFIG')


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the options that train and test share."""
    add_work_dir(parser)
    add_amp(parser)
    parser.add_argument(
        '--tf32',
        action='store_true',
        help='multiply float32 matrices in TF32 on GPUs that can; defaults '
        "to torch's choice")
    parser.add_argument(
        '--track',
        choices=['tensorboard', 'mlflow', 'wandb', 'aim'],
        metavar='NAME',
        help='also log the run by tensorboard, mlflow, wandb or aim')
    add_data_root(parser)
    add_data_format(parser)
    add_classes(parser)
    add_cfg_options(parser)
    add_launcher(parser)
