"""``mmhier NAME``: run a command of mmhier."""
import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from mmhier.errors import MMHierError, run_tool
from mmhier.version import __version__

# Group and help by name; `convert-data` is the module convert_data.
COMMANDS: dict[str, tuple[str, str]] = {
    'check': ('Train and test', 'check config, data and model before training'),
    'train': ('Train and test', 'train a detector, segmentor or classifier'),
    'test': ('Train and test', 'evaluate a checkpoint'),
    'analyze': ('Train and test', 'break down the errors of a test'),
    'demo': ('Train and test', 'train and evaluate on generated images'),
    'convert-data': ('Train and test', 'convert YOLO or Pascal VOC to COCO'),
    'generate-shapes': ('Train and test', 'generate the images of the demo'),
    'configs': ('Models', 'list configs'),
    'weights': ('Models', "list and fetch the authors' weights"),
    'convert': ('Models', "convert an authors' checkpoint"),
    'publish': ('Models', 'reduce a checkpoint to its weights'),
    'export': ('Models', 'export to ONNX or torch.export'),
    'flops': ('Models', 'count parameters and multiply-adds'),
    'benchmark': ('Models', 'measure speed and memory'),
    'infer': ('Predict and show', 'predict images, videos or a camera'),
    'visualize': ('Predict and show', 'draw attention, features or samples'),
    'web-demo': ('Predict and show', 'serve a model as a web page'),
    'leaderboard': ('Results', 'tabulate the records of tests'),
    'replay': ('Results', 'repeat a recorded test'),
    'submit': ('Results', 'make a package for an evaluation server'),
    'doctor': ('Installation', 'check the installation'),
}
# Modules that `pip install "mmhier[openmmlab]"` installs.
STACK = ('torch', 'torchvision', 'mmengine', 'mmcv', 'mmdet', 'mmseg',
         'mmpretrain')


def help_text() -> str:
    """Commands by group."""
    lines = []
    for group in dict.fromkeys(group for group, _ in COMMANDS.values()):
        lines.append(f'\n{group}:')
        lines += [
            f'  {name:16} {text}' for name, (of, text) in COMMANDS.items()
            if of == group
        ]
    return '\n'.join(lines + ['', '`mmhier COMMAND --help` explains one.'])


def run(command: str, argv: Sequence[str] | None = None) -> None:
    """Run a command; end with one line and status 2 on a user's mistake.

    Args:
        command (str): Key of ``COMMANDS``.
        argv (Sequence[str], optional): Its arguments. Defaults to None,
            ``sys.argv[1:]``.
    """

    def main() -> None:
        try:
            module = import_module(f'mmhier.cli.{command.replace("-", "_")}')
            module.main(argv)
        except ModuleNotFoundError as error:
            package = str(error.name).partition('.')[0]
            if package not in STACK:
                raise
            raise MMHierError(f'{package} is not installed: run pip install '
                              '"mmhier[openmmlab]"') from error

    run_tool(main)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``mmhier`` and ``python -m mmhier``."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    parser = argparse.ArgumentParser(
        prog='mmhier',
        usage='mmhier COMMAND ...',
        description='Hierarchical vision transformers for dense prediction.',
        epilog=help_text(),
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--version', action='version', version=f'mmhier {__version__}')
    parser.add_argument(
        'command',
        choices=COMMANDS,
        metavar='COMMAND',
        help='one of those below')
    command = parser.parse_args(arguments[:1]).command
    run(command, arguments[1:])


if __name__ == '__main__':
    main()
