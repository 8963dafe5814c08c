"""tools/submit.py: from a checkpoint to a package, and checks of packages."""
import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image
from mmhier.apis import MMHierError, run_tool
from mmhier.cli import submit
from mmhier.leaderboard.ade20k_submission import check_ade20k_package
from mmhier.leaderboard.coco_submission import (
    check_coco_package,
    read_image_list,
)
from mmhier.leaderboard.submission import submit_ade20k, submit_coco
from ..lanes import fast_first
from . import samples
from .conftest import CONFIGS, DETECTOR

SUBMIT = Path(__file__).parents[2] / 'tools' / 'submit.py'
SEGMENTOR = str(CONFIGS / 'segmentor.py')
PACKAGE = 'detections_test-dev2017_mask-rcnn_results.zip'


def random_weights(config: str, path: Path) -> str:
    """Checkpoint of a model that was not trained."""
    from mmengine.registry import MODELS
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    with MODELS.switch_scope_and_registry(cfg.default_scope) as registry:
        model = registry.build(cfg.model)
    torch.save(dict(state_dict=model.state_dict()), path)
    return str(path)


@pytest.fixture(scope='module')
def detector(tmp_path_factory) -> str:
    return random_weights(DETECTOR, tmp_path_factory.mktemp('d') / 'd.pth')


@pytest.fixture(scope='module')
def segmentor(tmp_path_factory) -> str:
    pytest.importorskip('mmseg')
    return random_weights(SEGMENTOR, tmp_path_factory.mktemp('s') / 's.pth')


@pytest.fixture(scope='module')
def unlabelled(tmp_path_factory) -> Path:
    """A data root with the images of test-dev, and no annotations."""
    root = samples.write_coco(tmp_path_factory.mktemp('unlabelled') / 'coco')
    (root / 'val2017').rename(root / 'test2017')
    path = root / 'annotations' / 'instances_val2017.json'
    content = json.loads(path.read_text())
    del content['annotations']
    path.with_name('image_info_test-dev2017.json').write_text(
        json.dumps(content))
    path.unlink()
    return root


def test_boxes_and_masks_of_images_without_annotations(detector, unlabelled,
                                                       tmp_path, capfd):
    summaries = submit_coco(
        DETECTOR, detector, data_root=str(unlabelled), work_dir=str(tmp_path))
    out = tmp_path / 'submissions'
    assert sorted(
        out.rglob('*.*')) == [out / 'bbox' / PACKAGE, out / 'segm' / PACKAGE]
    images = read_image_list(unlabelled / 'annotations' /
                             'image_info_test-dev2017.json')
    for task, summary in zip(('bbox', 'segm'), summaries):
        assert summary.path == str(out / task / PACKAGE)
        # At most ten for each of the six.
        assert 0 < summary.num_results <= 60
        again = check_coco_package(summary.path, images, 6 - summary.num_images)
        assert again.kind == task
        with zipfile.ZipFile(summary.path) as archive:
            content = json.loads(archive.read(PACKAGE.replace('.zip', '.json')))
        # Official ids, not the model's class numbers.
        assert {d['category_id'] for d in content} <= {10, 20, 30}
    assert 'interrupted' not in capfd.readouterr().out
    # Both are refused before the model is built.
    with pytest.raises(MMHierError, match='bbox.*exists.*--overwrite'):
        submit_coco(
            DETECTOR,
            detector,
            data_root=str(unlabelled),
            work_dir=str(tmp_path))


def test_another_list_and_only_boxes(detector, coco_root, tmp_path):
    summary, = submit_coco(
        DETECTOR,
        detector,
        tasks=['bbox'],
        image_list=str(coco_root / 'annotations' / 'instances_val2017.json'),
        name='my_net',
        out_dir=str(tmp_path / 'out'),
        data_root=str(coco_root),
        work_dir=str(tmp_path / 'work'))
    assert summary.path == str(tmp_path / 'out' / 'bbox' /
                               'detections_val2017_my-net_results.zip')
    assert not list((tmp_path / 'out').rglob('segm'))


@pytest.mark.parametrize('tta', fast_first([False, True]))
def test_label_maps_have_the_server_s_encoding(tta, segmentor, masks_root,
                                               tmp_path):
    folder = tmp_path / 'testing'
    folder.mkdir()
    source = masks_root / 'images' / 'validation' / '0.jpg'
    image = cv2.imread(str(source))
    sizes = {'a': (64, 64), 'b': (40, 56)}
    for name, (height, width) in sizes.items():
        cv2.imwrite(str(folder / f'{name}.jpg'), image[:height, :width])
    summary, = submit_ade20k(
        SEGMENTOR,
        segmentor,
        tta=tta,
        image_dir=str(folder),
        data_root=str(masks_root),
        work_dir=str(tmp_path / 'work'))
    out = tmp_path / 'work' / 'submissions'
    assert list(out.iterdir()) == [out / 'ade20k_testing_segmentor.zip']
    assert check_ade20k_package(summary.path, sizes).notes == []
    with zipfile.ZipFile(summary.path) as archive:
        for name, size in sizes.items():
            labels = np.asarray(
                Image.open(io.BytesIO(archive.read(f'{name}.png'))))
            assert labels.shape == size
            assert set(np.unique(labels)) <= {1, 2}


def test_a_model_of_too_many_classes_is_refused(masks_root, tmp_path):
    pytest.importorskip('mmseg')
    config = tmp_path / 'more.py'
    classes = [str(i) for i in range(160)]
    config.write_text(f'''_base_ = {SEGMENTOR!r}
model = dict(decode_head=dict(num_classes=160))
test_dataloader = dict(dataset=dict(metainfo=dict(classes={classes},
    palette={[[0, 0, 0]] * 160})))
''')
    weights = random_weights(str(config), tmp_path / 'w.pth')
    content = torch.load(weights, weights_only=True)
    content['state_dict']['decode_head.conv_seg.bias'][155] = 1e6
    torch.save(content, weights)
    with pytest.raises(MMHierError, match='values above 150: 2, .*up to 156'):
        submit_ade20k(
            str(config),
            weights,
            image_dir=str(masks_root / 'images' / 'validation'),
            data_root=str(masks_root),
            work_dir=str(tmp_path / 'work'))
    assert not list((tmp_path / 'work' / 'submissions').iterdir())


@pytest.mark.parametrize('arguments, reason', [
    (dict(image_list='none.json'), 'image list none.json .*--image-list'),
    (dict(image_dir='none'), 'image folder none .*--image-dir'),
    (dict(name='my/net'), 'cannot be a name for the server'),
    (dict(cfg_options=dict(test_dataloader=None)), 'has no test_dataloader'),
])
def test_mistakes_are_named(arguments, reason, detector, unlabelled, tmp_path):
    with pytest.raises(MMHierError, match=reason):
        submit_coco(
            DETECTOR,
            detector,
            data_root=str(unlabelled),
            work_dir=str(tmp_path),
            **arguments)
    assert not list(tmp_path.rglob('*.zip'))


def test_models_for_the_other_server(detector, segmentor, unlabelled,
                                     masks_root, tmp_path):
    with pytest.raises(MMHierError, match='config for mmseg.*results of mmdet'):
        submit_coco(
            SEGMENTOR,
            segmentor,
            data_root=str(masks_root),
            work_dir=str(tmp_path))
    with pytest.raises(MMHierError, match='config for mmdet.*results of mmseg'):
        submit_ade20k(
            DETECTOR,
            detector,
            data_root=str(unlabelled),
            work_dir=str(tmp_path))


def test_a_model_without_masks(detector, unlabelled, tmp_path):
    with pytest.raises(MMHierError, match='predicts no masks: use --task bbox'):
        submit_coco(
            DETECTOR,
            random_weights_without_masks(detector, tmp_path),
            tasks=['segm'],
            data_root=str(unlabelled),
            work_dir=str(tmp_path),
            cfg_options={'model.roi_head.mask_head': None})
    assert not list(tmp_path.rglob('*.zip'))


def random_weights_without_masks(detector: str, folder: Path) -> str:
    weights = torch.load(detector, weights_only=True)['state_dict']
    path = folder / 'boxes.pth'
    torch.save(
        {
            name: value
            for name, value in weights.items() if 'mask_head' not in name
        }, path)
    return str(path)


SLOW_RUN = '''
import runpy, sys, time
from pathlib import Path
from mmdet.evaluation import CocoMetric
marker = Path(sys.argv.pop(1))
process = CocoMetric.process
def slow_process(self, data_batch, data_samples):
    process(self, data_batch, data_samples)
    if len(self.results) == 3:
        marker.touch()
        time.sleep(600)
CocoMetric.process = slow_process
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name='__main__')
'''


@pytest.mark.slow
def test_killed_while_the_model_runs(detector, unlabelled, tmp_path, capfd):
    out, marker = tmp_path / 'out', tmp_path / 'half_done'
    package = out / 'bbox' / PACKAGE
    package.parent.mkdir(parents=True)
    package.write_bytes(b'earlier')
    process = subprocess.Popen([
        sys.executable, '-c', SLOW_RUN, marker, SUBMIT, 'coco', DETECTOR,
        detector, '--task', 'bbox', '--data-root', unlabelled, '--out-dir', out,
        '--work-dir', tmp_path, '--overwrite'
    ],
                               env=dict(os.environ, OMP_NUM_THREADS='1'))
    arguments = dict(
        tasks=['bbox'],
        data_root=str(unlabelled),
        out_dir=str(out),
        work_dir=str(tmp_path),
        overwrite=True)
    try:
        while not marker.exists() and process.poll() is None:
            time.sleep(.2)
        with pytest.raises(MMHierError, match='written by another process'):
            submit_coco(DETECTOR, detector, **arguments)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    staged = out / '.predictions.unfinished'
    assert staged.is_dir() and package.read_bytes() == b'earlier'
    capfd.readouterr()

    submit_coco(DETECTOR, detector, **arguments)
    assert f'removed {staged}, which an interrupted run left behind; ' \
        'starting anew' in capfd.readouterr().out
    assert [p for p in out.rglob('*') if p.is_file()] == [package]
    assert check_coco_package(package).kind == 'bbox'


def call(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, SUBMIT, *(str(a) for a in arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env=dict(os.environ, OMP_NUM_THREADS='1'))


@pytest.mark.slow
def test_command_line(detector, unlabelled, tmp_path):
    made = call('coco', DETECTOR, detector, '--task', 'bbox', '--data-root',
                unlabelled, '--work-dir', tmp_path)
    assert made.returncode == 0, made.stderr
    package = tmp_path / 'submissions' / 'bbox' / PACKAGE
    assert f'{package} is valid: bbox' in made.stdout

    package.write_bytes(package.read_bytes()[:-30])
    refused = call('coco', '--check', package)
    assert refused.returncode == 2
    assert refused.stderr == (
        f'error: {package} cannot be submitted:\n  - the zip file is '
        'truncated or damaged: its list of contents is missing\n')


@pytest.fixture
def tool(capsys):
    """Run the tool in this process; its exit status and what it printed."""

    def run(*arguments):
        argv = [str(argument) for argument in arguments]
        status = 0
        try:
            run_tool(lambda: submit.main(argv))
        except SystemExit as ended:
            status = ended.code
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return run


@pytest.mark.parametrize('arguments, status, printed', [
    (['ade20k', '--help'], 0, 'mmhier submit ade20k --check'),
    (['coco', '--help'], 0, '--allow-empty-images N'),
    (['coco', 'config.py'], 2, 'expected CONFIG and CHECKPOINT, or --check'),
    (['ade20k', 'config.py', '--check', 'x.zip'], 2, 'needs no CONFIG'),
    (['coco', '--check', 'x.zip'], 2, 'package x.zip does not exist'),
    (['ade20k', '--check', 'x.zip'], 2, 'package x.zip does not exist'),
    (['coco', '--check', 'x.zip', '--allow-empty-images', 'few'
      ], 2, 'expected a number or "all", got few'),
    (['coco', '--check', 'x.zip', '--data-root', 'none'
      ], 2, 'none/annotations/image_info_test-dev2017.json: No such file'),
    (['ade20k', '--check', 'x.zip', '--data-root', 'none'
      ], 2, 'image folder none/images/testing does not exist'),
    (['coco', 'a.py', 'b.pth', '--cfg-options', 'x'
      ], 2, '--cfg-options: expected KEY=VALUE'),
])
def test_arguments(arguments, status, printed, tool):
    found_status, found = tool(*arguments)
    assert found_status == status
    assert printed in found


def test_missing_images_may_be_allowed(tool, unlabelled, tmp_path):
    image_list = unlabelled / 'annotations' / 'image_info_test-dev2017.json'
    package = tmp_path / PACKAGE
    detection = dict(image_id=2, category_id=10, bbox=[1, 2, 30, 20], score=.5)
    with zipfile.ZipFile(package, 'w') as archive:
        archive.writestr(
            package.with_suffix('.json').name, json.dumps([detection]))
    check = ['coco', '--check', package]
    for options in (['--image-list', image_list], ['--data-root', unlabelled],
                    ['--annotations', image_list, '--allow-empty-images', 4]):
        status, printed = tool(*check, *options)
        assert status == 2
        assert 'missing images: 5 of the 6 in' in printed
    for allowed in ('5', 'all'):
        status, printed = tool(*check, '--image-list', image_list,
                               '--allow-empty-images', allowed)
        assert status == 0, printed
        assert '5 of 6 images have no detection' in printed
    status, printed = tool(*check)
    assert status == 0 and 'not checked without an image list' in printed


def test_the_name_of_a_package_tells_its_images(tool, coco_root, tmp_path):
    package = tmp_path / 'detections_val2017_mine_results.zip'
    detection = dict(image_id=2, category_id=10, bbox=[1, 2, 30, 20], score=.5)
    with zipfile.ZipFile(package, 'w') as archive:
        archive.writestr(
            package.with_suffix('.json').name, json.dumps([detection]))
    status, printed = tool('coco', '--check', package, '--data-root', coco_root)
    assert status == 2
    path = coco_root / 'annotations' / 'instances_val2017.json'
    assert f'missing images: 5 of the 6 in {path}' in printed
