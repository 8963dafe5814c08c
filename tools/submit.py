"""Make or check a package for the COCO or the ADE20K evaluation server.

Examples:
    # test-dev2017 of data/coco, boxes and masks, each in a package.
    python tools/submit.py coco \\
        configs/hatnet/mask-rcnn_hatnet-tiny_fpn_1x_coco.py epoch_12.pth
    # Any other images, boxes only.
    python tools/submit.py coco CONFIG CHECKPOINT --task bbox \\
        --image-list annotations/instances_val2017.json --image-dir val2017
    # images/testing of the data root.
    python tools/submit.py ade20k \\
        configs/hatnet/upernet_hatnet-tiny_160k_ade20k-512x512.py latest.pth
    # Packages from anywhere, without a model.
    python tools/submit.py coco \\
        --check detections_test-dev2017_mine_results.zip \\
        --image-list data/coco/annotations/image_info_test-dev2017.json
    python tools/submit.py ade20k --check mine.zip \\
        --image-dir data/ade/ADEChallengeData2016/images/testing

A package that the server would refuse or score wrongly is not written, and
everything that is wrong with it is listed. Exit status: 0 for a valid
package, 2 otherwise.
"""
import argparse
import os.path as osp
from typing import Any

from mmengine.config import DictAction
from mmhier.apis import run_tool
from mmhier.errors import MMHierError
from mmhier.leaderboard.ade20k_submission import (
    check_ade20k_package,
    read_image_sizes,
)
from mmhier.leaderboard.coco_submission import (
    check_coco_package,
    read_image_list,
)
from mmhier.leaderboard.packages import PackageSummary
from mmhier.leaderboard.submission import (
    TEST_DEV_LIST,
    TESTING_DIR,
    submit_ade20k,
    submit_coco,
)


def _parse_arguments() -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    servers = parser.add_subparsers(dest='server', required=True)
    coco = _add_server(servers, 'coco', 'boxes and masks')
    coco.add_argument(
        '--task',
        nargs='+',
        choices=['bbox', 'segm'],
        dest='tasks',
        help='which packages to make; defaults to what the config evaluates')
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
    ade20k = _add_server(servers, 'ade20k', 'label maps')
    ade20k.add_argument(
        '--image-dir',
        '--images',
        metavar='DIR',
        help='folder of the images; defaults to images/testing below the data '
        'root. --check without it, and without --data-root, cannot find '
        'missing label maps and sizes that do not fit their image')
    try:
        arguments = parser.parse_args()
    except ValueError:
        parser.error('--cfg-options: expected KEY=VALUE')
    if arguments.check is None and arguments.checkpoint is None:
        parser.error(f'{arguments.server}: expected CONFIG and CHECKPOINT, or '
                     '--check FILE')
    if arguments.check is not None and arguments.config is not None:
        parser.error('--check FILE needs no CONFIG')
    return vars(arguments)


def _add_server(servers: Any, name: str,
                results: str) -> argparse.ArgumentParser:
    """Subcommand with the arguments that both servers have."""
    parser = servers.add_parser(
        name,
        help=f'{results} for the {name} server',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', nargs='?', help='config file')
    parser.add_argument('checkpoint', nargs='?', help='checkpoint file')
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
    parser.add_argument(
        '--overwrite', action='store_true', help='replace a package')
    parser.add_argument(
        '--work-dir',
        help='where logs go; defaults to work_dir of the config, then to '
        'work_dirs/NAME_OF_THE_CONFIG')
    parser.add_argument(
        '--data-root',
        metavar='DIR',
        help='use the data in DIR, laid out as in data_root of the config')
    parser.add_argument(
        '--tta',
        action='store_true',
        help='test-time augmentation by tta_model and tta_pipeline of the '
        'config')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override keys of the config')
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='how the processes of a distributed job were started; defaults '
        'to none')
    return parser


def _find(root: str, *names: str) -> str:
    """The first path below a folder that is there, else the first of all."""
    paths = [osp.join(root, name) for name in names]
    return next(filter(osp.exists, paths), paths[0])


def _check_coco(arguments: dict[str, Any]) -> PackageSummary:
    image_list = arguments['image_list']
    if image_list is None and arguments['data_root'] is not None:
        # The second part of a name is the test set.
        testset = osp.basename(arguments['check']).split('_')[1:2]
        names = [
            f'annotations/{kind}_{name}.json' for name in testset
            for kind in ('image_info', 'instances')
        ]
        image_list = _find(arguments['data_root'], *names, TEST_DEV_LIST,
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


def _check_ade20k(arguments: dict[str, Any]) -> PackageSummary:
    image_dir = arguments['image_dir']
    if image_dir is None and arguments['data_root'] is not None:
        image_dir = _find(arguments['data_root'], TESTING_DIR,
                          'images/validation')
    sizes = None if image_dir is None else read_image_sizes(image_dir)
    return check_ade20k_package(arguments['check'], sizes)


def main() -> None:
    arguments = _parse_arguments()
    is_coco = arguments.pop('server') == 'coco'
    if arguments['check'] is not None:
        check = _check_coco if is_coco else _check_ade20k
        print(check(arguments))
        return
    for key in ('check', 'allow_empty_images'):
        arguments.pop(key, None)
    submit = submit_coco if is_coco else submit_ade20k
    for summary in submit(**arguments):
        print(summary)


if __name__ == '__main__':
    run_tool(main)
