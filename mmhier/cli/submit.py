"""Make or check a package for the COCO or the ADE20K evaluation server.

Examples:
    # test-dev2017 of data/coco, boxes and masks, each in a package.
    mmhier submit coco \\
        configs/hatnet/mask-rcnn_hatnet-tiny_fpn_1x_coco.py epoch_12.pth
    # Any other images, boxes only.
    mmhier submit coco CONFIG CHECKPOINT --task bbox \\
        --image-list annotations/instances_val2017.json --image-dir val2017
    # images/testing of the data root.
    mmhier submit ade20k \\
        configs/hatnet/upernet_hatnet-tiny_160k_ade20k-512x512.py latest.pth
    # Packages from anywhere, without a model.
    mmhier submit coco --check detections_test-dev2017_mine_results.zip \\
        --image-list data/coco/annotations/image_info_test-dev2017.json
    mmhier submit ade20k --check mine.zip \\
        --image-dir data/ade/ADEChallengeData2016/images/testing

A package that the server would refuse or score wrongly is not written, and
all its faults are listed. Exit status: 0 for a valid package, 2 otherwise.
"""
import argparse
import os.path as osp
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mmhier.errors import MMHierError
from .arguments import (
    add_amp,
    add_cfg_options,
    add_checkpoint,
    add_config,
    add_data_root,
    add_launcher,
    add_overwrite,
    add_tta,
    add_work_dir,
    command_parser,
)

if TYPE_CHECKING:
    from mmhier.leaderboard.packages import PackageSummary


def parser() -> argparse.ArgumentParser:
    """Arguments of the command."""
    parser = command_parser('submit', __doc__)
    servers = parser.add_subparsers(dest='server', required=True)
    coco = add_server(servers, 'coco', 'boxes and masks')
    coco.add_argument(
        '--task',
        nargs='+',
        choices=['bbox', 'segm'],
        dest='tasks',
        help='packages to make; defaults to what the config evaluates')
    coco.add_argument(
        '--image-list',
        '--annotations',
        metavar='JSON',
        help='COCO json of the images, with annotations or without; defaults '
        'to annotations/image_info_test-dev2017.json below the data root. '
        '--check without it, and without --data-root, cannot find missing '
        'images and results that do not fit their image')
    coco.add_argument(
        '--image-dir',
        metavar='DIR',
        help='folder of the images; defaults to test2017 below the data root, '
        'or to the folder that the name of the list tells')
    coco.add_argument(
        '--allow-empty-images',
        default='0',
        metavar='N',
        help='for --check: how many images may have no detection, a number or '
        '"all"; defaults to 0')
    ade20k = add_server(servers, 'ade20k', 'label maps')
    ade20k.add_argument(
        '--image-dir',
        '--images',
        metavar='DIR',
        help='folder of the images; defaults to images/testing below the data '
        'root. --check without it, and without --data-root, cannot find '
        'missing label maps and sizes that do not fit their image')
    return parser


def add_server(servers: Any, name: str,
               results: str) -> argparse.ArgumentParser:
    """Add a subcommand with the arguments of both servers."""
    parser = servers.add_parser(
        name,
        help=f'{results} for the {name} server',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    add_config(parser, nargs='?')
    add_checkpoint(parser, nargs='?')
    parser.add_argument(
        '--check', metavar='FILE', help='validate this package instead')
    parser.add_argument(
        '--name',
        help='name of the method in the package; defaults to that of the '
        'config')
    parser.add_argument(
        '--out-dir',
        metavar='DIR',
        help='where the package goes; defaults to submissions/ in the work '
        'dir')
    add_overwrite(parser, 'replace a package')
    add_work_dir(parser)
    add_data_root(parser)
    add_tta(parser)
    add_amp(parser)
    add_cfg_options(parser)
    add_launcher(parser)
    return parser


def find_below(root: str, *names: str) -> str:
    """The first existing path below a folder, else the first of all."""
    paths = [osp.join(root, name) for name in names]
    return next(filter(osp.exists, paths), paths[0])


def check_coco(arguments: dict[str, Any]) -> 'PackageSummary':
    """Validate a COCO package."""
    from mmhier.leaderboard.coco_submission import (
        check_coco_package,
        read_image_list,
    )
    from mmhier.leaderboard.submission import TEST_DEV_LIST
    image_list = arguments['image_list']
    if image_list is None and arguments['data_root'] is not None:
        # The second part of a name is the test set.
        testset = osp.basename(arguments['check']).split('_')[1:2]
        names = [
            f'annotations/{kind}_{name}.json' for name in testset
            for kind in ('image_info', 'instances')
        ]
        image_list = find_below(arguments['data_root'], *names, TEST_DEV_LIST,
                                'annotations/instances_val2017.json')
    images = None if image_list is None else read_image_list(image_list)
    allowed = arguments['allow_empty_images']
    if allowed == 'all':
        num_allowed = len(images.sizes) if images else 0
    elif allowed.isdecimal():
        num_allowed = int(allowed)
    else:
        raise MMHierError('--allow-empty-images: expected a number or "all", '
                          f'got {allowed}')
    return check_coco_package(arguments['check'], images, num_allowed)


def check_ade20k(arguments: dict[str, Any]) -> 'PackageSummary':
    """Validate an ADE20K package."""
    from mmhier.leaderboard.ade20k_submission import (
        check_ade20k_package,
        read_image_sizes,
    )
    from mmhier.leaderboard.submission import TESTING_DIR
    image_dir = arguments['image_dir']
    if image_dir is None and arguments['data_root'] is not None:
        image_dir = find_below(arguments['data_root'], TESTING_DIR,
                               'images/validation')
    sizes = None if image_dir is None else read_image_sizes(image_dir)
    return check_ade20k_package(arguments['check'], sizes)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    command = parser()
    arguments = vars(command.parse_args(argv))
    server, package = arguments.pop('server'), arguments['check']
    if package is None and arguments['checkpoint'] is None:
        command.error(f'{server}: expected CONFIG and CHECKPOINT, or --check '
                      'FILE')
    if package is not None and arguments['config'] is not None:
        command.error('--check FILE needs no CONFIG')
    if package is not None:
        check = check_coco if server == 'coco' else check_ade20k
        print(check(arguments))
        return
    from mmhier.leaderboard import submission

    for key in ('check', 'allow_empty_images'):
        arguments.pop(key, None)
    for summary in getattr(submission, f'submit_{server}')(**arguments):
        print(summary)
