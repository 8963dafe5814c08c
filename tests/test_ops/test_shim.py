import os
from importlib.util import find_spec
from pathlib import Path

import pytest
from mmhier import ops
from mmhier.ops.shim import SHIM_TEXT
from ..lanes import slow
from ..test_tools.samples import write_coco, write_masks
from .conftest import REPOSITORY, run_python


def test_install_and_remove_are_idempotent(fake_mmcv):
    path = fake_mmcv / '_ext.py'
    assert ops.install_shim() == path
    assert path.read_text() == SHIM_TEXT and SHIM_TEXT.count('\n') == 1
    modified = path.stat().st_mtime_ns
    assert ops.install_shim() == path
    assert path.stat().st_mtime_ns == modified
    assert ops.operator_source() == 'torchvision'
    assert str(path) in ops.describe_operators()
    assert ops.remove_shim() == path
    assert ops.remove_shim() is None
    assert [p.name for p in fake_mmcv.iterdir()] == ['__init__.py']


def test_shim_of_another_version_is_renewed(fake_mmcv):
    path = fake_mmcv / '_ext.py'
    path.write_text('import this  ' + SHIM_TEXT.partition('  ')[2])
    ops.install_shim()
    assert path.read_text() == SHIM_TEXT


@pytest.mark.parametrize('name', [
    '_ext.cpython-311-x86_64-linux-gnu.so', '_ext.cp310-win_amd64.pyd',
    '_ext.so'
])
def test_nothing_is_written_beside_compiled_operators(fake_mmcv, name):
    (fake_mmcv / name).write_bytes(b'machine code')
    assert ops.install_shim() is None
    assert ops.remove_shim() is None
    assert (fake_mmcv / name).read_bytes() == b'machine code'
    assert not (fake_mmcv / '_ext.py').exists()


def test_file_of_somebody_else_is_left_alone(fake_mmcv):
    path = fake_mmcv / '_ext.py'
    path.write_text('nms = None')
    with pytest.raises(FileExistsError, match=f'{path} is there and was not'):
        ops.install_shim()
    assert ops.remove_shim() is None
    assert path.read_text() == 'nms = None'


def test_install_without_mmcv(monkeypatch):
    monkeypatch.setattr(ops.shim, 'find_spec', lambda name: None)
    with pytest.raises(ModuleNotFoundError, match='mmcv is not installed'):
        ops.install_shim()
    assert ops.remove_shim() is None


def test_remove_after_mmcv_was_uninstalled(fake_mmcv):
    ops.install_shim()
    spec = ops.shim.find_spec('mmcv')
    spec.origin = None
    assert ops.operator_source() == 'missing'
    with pytest.raises(ModuleNotFoundError, match='mmcv is not installed'):
        ops.install_shim()
    assert ops.remove_shim() == fake_mmcv / '_ext.py'


def test_install_into_read_only_folder(fake_mmcv, monkeypatch):

    def deny(path, *args, **kwargs):
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr(Path, 'write_text', deny)
    with pytest.raises(PermissionError, match='_ext.py cannot be written'):
        ops.install_shim()
    assert os.listdir(fake_mmcv) == ['__init__.py']


def test_command_line(bare_mmcv):

    def run(action):
        result = run_python('-m', 'mmhier.ops', action, path=bare_mmcv.parent)
        assert result.returncode == 0, result.stderr
        first, *others = result.stdout.splitlines()
        assert others[-1:] == [] or others[-1].startswith('mmcv operators: ')
        return first

    path = bare_mmcv / '_ext.py'
    assert run('status').endswith('by importing mmhier; mmcv has no compiled '
                                  'operators')
    assert run('install') == f'{path} hands over to mmhier.ops'
    assert f'through {path}' in run('status')
    assert run('remove') == f'removed {path}'
    assert run('remove') == 'mmcv/_ext.py is not from mmhier: nothing removed'


def test_command_line_reports_errors_in_one_line(bare_mmcv):
    (bare_mmcv / '_ext.py').write_text('nms = None')
    result = run_python('-m', 'mmhier.ops', 'install', path=bare_mmcv.parent)
    assert result.returncode == 1
    assert result.stderr.startswith(f'error: {bare_mmcv}/_ext.py is there')
    assert len(result.stderr.splitlines()) == 1


def test_mmdet_runs_without_importing_mmhier(bare_mmcv):
    run_python('-m', 'mmhier.ops', 'install', path=bare_mmcv.parent)
    result = run_python(
        '-c', 'import sys, torch\n'
        'from mmdet.models.layers import multiclass_nms\n'
        'boxes = torch.tensor([[0., 0, 9, 9], [0, 0, 9, 8]])\n'
        'scores = torch.tensor([[.9, .1], [.8, .2]])\n'
        'dets, _ = multiclass_nms(boxes, scores, .05, '
        'dict(type="nms", iou_threshold=.5))\n'
        'assert len(dets) == 1\n'
        'print(sys.modules["mmcv._ext"].__file__)\n',
        path=bare_mmcv.parent)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == str(bare_mmcv / '_ext.py')


# A Mask R-CNN and a segmentor in which nothing is of mmhier.
MMDET_CONFIG = """
_base_ = [
    '{configs}/_base_/models/mask-rcnn_r50_fpn.py',
    '{configs}/_base_/datasets/coco_instance.py',
    '{configs}/_base_/schedules/schedule_1x.py',
    '{configs}/_base_/default_runtime.py',
]
model = dict(
    backbone=dict(depth=18, init_cfg=None),
    neck=dict(in_channels=[64, 128, 256, 512]),
    roi_head=dict(
        bbox_head=dict(num_classes=3), mask_head=dict(num_classes=3)),
    train_cfg=dict(rpn_proposal=dict(max_per_img=50)),
    test_cfg=dict(
        rpn=dict(max_per_img=50), rcnn=dict(score_thr=0., max_per_img=10)))
dataset = dict(
    data_root='{data_root}/',
    metainfo=dict(classes=('box', 'bar', 'tile')))
loader = dict(num_workers=0, persistent_workers=False, dataset=dataset)
train_dataloader = loader
val_dataloader = loader
test_dataloader = loader
val_evaluator = dict(
    ann_file='{data_root}/annotations/instances_val2017.json')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=1)
"""
MMSEG_CONFIG = """
_base_ = '{repository}/tests/test_tools/configs/segmentor.py'
model = dict(
    backbone=dict(_delete_=True, type='ResNet', depth=18),
    decode_head=dict(in_channels=64))
"""


@pytest.mark.parametrize('package, config, write_data, checkpoint, metric', [
    ('mmdet', MMDET_CONFIG, write_coco, 'epoch_1.pth', 'segm_mAP: '),
    slow('mmseg', MMSEG_CONFIG, write_masks, 'iter_1.pth', 'mIoU: '),
])
def test_own_tools_of_mmdet_and_mmseg_train_and_test(bare_mmcv, tmp_path,
                                                     package, config,
                                                     write_data, checkpoint,
                                                     metric):
    run_python('-m', 'mmhier.ops', 'install', path=bare_mmcv.parent)
    mim = Path(find_spec(package).origin).parent / '.mim'
    data_root = write_data(tmp_path / 'data' / 'masks')
    path = tmp_path / 'config.py'
    path.write_text(
        config.format(
            configs=mim / 'configs', repository=REPOSITORY,
            data_root=data_root))
    options = ['--work-dir', str(tmp_path / 'run')]
    if package == 'mmdet':
        options += ['--cfg-options'] + [
            f'{phase}_dataloader.dataset.pipeline.{step}.scale=(96,64)'
            for phase, step in (('train', 2), ('val', 1), ('test', 1))
        ]
    commands = [
        [str(mim / 'tools/train.py'),
         str(path), *options],
        [
            str(mim / 'tools/test.py'),
            str(path),
            str(tmp_path / 'run' / checkpoint), *options
        ],
    ]
    # One after the other in a process that has not imported mmhier, and that
    # does not spend seconds on the layout of configs.
    result = run_python(
        '-c', 'import runpy, sys\n'
        'from yapf.yapflib import yapf_api\n'
        'yapf_api.FormatCode = lambda text, **_: (text, True)\n'
        f'for sys.argv in {commands}:\n'
        '    runpy.run_path(sys.argv[0], run_name="__main__")\n'
        'print(sys.modules["mmcv._ext"].__file__)\n',
        path=bare_mmcv.parent)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == str(bare_mmcv / '_ext.py')
    # Validated by one tool, tested by the other.
    assert (result.stdout + result.stderr).count(metric) >= 2
