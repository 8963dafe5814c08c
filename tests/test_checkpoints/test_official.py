"""Official weights: the table, and from names to outputs."""
import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmhier import apis
from mmhier.apis.predictor import load_model_config, load_weights
from mmhier.checkpoints import (
    official_name,
    official_weights,
    resolve_checkpoint,
)
from mmhier.checkpoints.proving import prove_official
from mmhier.cli.__main__ import run
from mmhier.errors import MMHierError
from mmhier.registry import MODELS
from mmhier.zoo import config_path
from tests import golden
from .test_whole_models import (
    mask_rcnn_shapes,
    retinanet_shapes,
    semantic_fpn_shapes,
)

TABLE = official_weights()
ROOT = Path(__file__).parents[2]
PUBLISHED = {
    model['Name']: model
    for path in ROOT.glob('configs/*/metafile.yml')
    for model in yaml.safe_load(path.read_text())['Models']
}
# lit_ti is the backbone of every released LIT-Ti, and classifiers' names are
# those of the backbones plus a head.
MASK_RCNN = 'mask-rcnn_lit-small_fpn_1x_coco'
SEMANTIC_FPN = 'semantic-fpn_lit-tiny_80k_ade20k-512x512'
RELEASED = {
    MASK_RCNN: ('lit_small_det', mask_rcnn_shapes),
    SEMANTIC_FPN: ('lit_ti', semantic_fpn_shapes),
    'retinanet_litv2-small-ws4_fpn_1x_coco':
    ('litv2_s_det_ws4', retinanet_shapes),
    'semantic-fpn_litv2-small_80k_ade20k-512x512':
    ('litv2_s_seg', semantic_fpn_shapes),
}
DIMS = dict(small=(96, 192, 384, 768), tiny=(64, 128, 320, 512))


def test_table_holds_every_official_file():
    files = Counter(weights.family for weights in TABLE.values())
    assert files == dict(HATNet=4, LIT=10, HVT=6, LITv2=26)
    for kind in ('name', 'url', 'file_name'):
        assert len({getattr(w, kind) for w in TABLE.values()}) == 46
    assert {w.licence
            for w in TABLE.values() if w.family == 'HATNet'} == {'none stated'}
    assert all('window' in w.note for name, w in TABLE.items()
               if 'rcnn_litv2' in name or 'net_litv2' in name)


@pytest.mark.parametrize('name', TABLE)
def test_family_variant_and_config_exist(name):
    weights = TABLE[name]
    assert weights.arch in MODELS.get(weights.family).arch_zoo
    backbone = Config.fromfile(config_path(weights.config)).model.backbone
    assert backbone.type == f'mmhier.{weights.family}'
    assert backbone.arch == weights.arch
    if not weights.backbone:
        assert official_name('official', weights.config) == name


@pytest.mark.parametrize('name',
                         [n for n, w in TABLE.items() if not w.backbone])
def test_published_results_are_those_of_the_metafiles(name):
    weights = TABLE[name]
    model = PUBLISHED[weights.config]
    results = model['Results']
    found = {k: v for result in results for k, v in result['Metrics'].items()}
    assert found == weights.published
    assert {result['Source'] for result in results} == {weights.source}
    assert model['Metadata']['Official Weights'].startswith(
        f'{weights.file_name} (release {weights.url.split("/")[-2]} of ')


def test_configs_without_official_weights():
    assert official_name('mine.pth', 'any') == 'mine.pth'
    for config in ('retinanet_hvt-s-1_fpn_1x_coco', 'configs/x/mine.py'):
        with pytest.raises(match='no official weights exist'):
            official_name('official', config)


def fill(shapes: dict) -> dict[str, torch.Tensor]:
    return {
        name: torch.as_tensor(golden.fill(name, tuple(shape)))
        for name, shape in shapes.items()
    }


def released(variant: str, head_shapes: dict) -> dict[str, torch.Tensor]:
    """A detector or segmentor around the backbone of a golden variant."""
    backbone = golden.official_state_dict(variant)
    return {
        **{
            f'backbone.{name}': value
            for name, value in backbone.items()
        },
        **fill(head_shapes)
    }


def build(name: str, **changes) -> torch.nn.Module:
    """Model of the config of a name, with the weights of the name."""
    cfg = load_model_config(TABLE[name].config)
    cfg.model.backbone.update(TABLE[name].backbone, **changes)
    model = MMENGINE_MODELS.build(cfg.model)
    load_weights(model, resolve_checkpoint(name))
    return model.eval()


@pytest.mark.parametrize('name, variant', [
    ('hatnet-tiny_in1k', 'hatnet_tiny'),
    ('lit-small_in1k', 'lit_small_cls'),
    ('hvt-ti-1_in1k', 'hvt_ti_1'),
    ('hvt-s-2_in1k', 'hvt_s_2'),
    ('litv2-small_in1k', 'litv2_s_cls'),
    ('litv2-small-alpha-0.5_in1k', 'litv2_s_cls_alpha0.5'),
])
def test_logits_from_a_name(weights_server, name, variant):
    weights_server.put(TABLE[name].file_name,
                       dict(model=golden.official_state_dict(variant)))
    model = build(name)
    checked = 0
    for run_ in golden.runs(variant):
        if run_['output_shapes'][0][-1] == 1000:
            with torch.no_grad():
                logits = model(golden.image(*run_['input']), mode='tensor')
            assert golden.largest_difference(variant, run_, [logits]) < 1e-4
            checked += 1
    assert checked
    assert weights_server.downloads() == [TABLE[name].file_name]


@pytest.fixture(scope='module')
def released_models(tmp_path_factory) -> Path:
    """The authors' files of detectors and segmentors."""
    folder = tmp_path_factory.mktemp('released')
    for name, (variant, shapes_of) in RELEASED.items():
        weights = released(variant, shapes_of(DIMS[TABLE[name].arch]))
        torch.save(
            dict(state_dict=weights, meta=dict(epoch=12)),
            folder / TABLE[name].file_name)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize('name', RELEASED)
def test_maps_of_released_models(weights_server, released_models, name):
    weights_server.folder = released_models
    # The authors cut maps of odd sizes, detectors of mmhier pad them.
    changes = {} if TABLE[name].family == 'LIT' else dict(ceil_mode=False)
    model = build(name, **changes)
    variant, _ = RELEASED[name]
    for run_ in golden.runs(variant):
        with torch.no_grad():
            maps = model.backbone(golden.image(*run_['input']))
        assert golden.largest_difference(variant, run_, maps) < 1e-4
    file = torch.load(released_models / TABLE[name].file_name)['state_dict']
    own = model.state_dict()
    for key, value in file.items():
        if not key.startswith('backbone.'):
            assert torch.equal(own[key], value), key
    path = Path(resolve_checkpoint(name))
    other, = (
        other for other in RELEASED
        if other != name and TABLE[other].family == TABLE[name].family)
    with pytest.raises(
            MMHierError,
            match=f'not the weights of {TABLE[other]}, but those of '
            f'{TABLE[name]}: '):
        prove_official(path, TABLE[other])


@pytest.mark.slow
def test_infer_and_test_take_official_weights(weights_server, released_models,
                                              tmp_path, monkeypatch, capsys):
    weights_server.folder = released_models
    monkeypatch.chdir(tmp_path)
    picture = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    cv2.imwrite('photo.jpg', picture)
    with pytest.raises(SystemExit) as end:
        run('infer', [SEMANTIC_FPN, 'photo.jpg', '--device', 'cpu'])
    assert end.value.code == 0
    folder = Path('work_dirs', SEMANTIC_FPN, 'predictions')
    assert f'1 images done, 0 skipped: {folder}' in capsys.readouterr().out
    predictions = json.loads((folder / 'predictions.json').read_text())
    assert Path(predictions['checkpoint']).name == 'sem_fpn_lit_ti.pth'
    assert predictions['images'][0]['segments']
    received = {}
    monkeypatch.setattr(
        apis, 'infer',
        lambda **kwargs: received.update(kwargs) or dict(images=[], skipped=[]))
    for argv, expected in {
        ('mine.pth', 'photo.jpg'): ('mine.pth', 'photo.jpg'),
        ('mine.pth', '--camera', '0'): ('mine.pth', None),
        ('--camera', '0'): ('official', None),
    }.items():
        with pytest.raises(SystemExit):
            run('infer', [SEMANTIC_FPN, *argv])
        assert (received['checkpoint'], received['inputs']) == expected


@pytest.fixture
def hvt_server(weights_server):
    """Mirror that has one file of the table."""
    weights_server.put('hvt_ti_1.pth', golden.official_state_dict('hvt_ti_1'))
    return weights_server


def test_list(hvt_server, capsys):
    run('weights', ['list', 'h*', 'retinanet_litv2-small*'])
    size = round((hvt_server.folder / 'hvt_ti_1.pth').stat().st_size / 1e6)
    rows = capsys.readouterr().out.splitlines()
    row = next(row for row in rows if row.startswith('hvt-ti-1_in1k '))
    assert row.split()[1:] == [
        str(size), 'Apache-2.0', 'Top', '1', 'Accuracy', '69.64,', 'Top', '5',
        'Accuracy', '89.4', 'HVT', 'ti-1,', 'ImageNet', 'classifier'
    ]
    row = next(row for row in rows if row.startswith('hatnet-tiny_in1k '))
    assert row.split()[1:4] == ['?', 'none', 'stated']
    assert rows[-1].startswith('retinanet_litv2-small_fpn_1x_coco, ')
    assert 'equal in names and shapes for window sizes 2 and 4' in rows[-1]
    assert not hvt_server.downloads()


def test_fetch_where_verify(hvt_server, capsys):
    run('weights', ['fetch', 'hvt-ti-1_in1k'])
    path = resolve_checkpoint('hvt-ti-1_in1k')
    assert capsys.readouterr().out == f'hvt-ti-1_in1k: {path} (fetched)\n'
    run('weights', ['where'])
    assert capsys.readouterr().out.splitlines()[1:] == [
        f'cache: {Path(path).parent}', f'hvt-ti-1_in1k: {path}'
    ]
    with pytest.raises(SystemExit) as end:
        run('weights', ['verify'])
    assert end.value.code == 0
    assert capsys.readouterr().out == (
        f'hvt-ti-1_in1k: {path} is complete, as it was fetched\n')
    torch.save(golden.official_state_dict('hvt_s_2'), path)
    with pytest.raises(SystemExit) as end:
        run('weights', ['verify'])
    assert end.value.code == 1
    assert 'was changed since' in capsys.readouterr().out


def test_a_full_disk_is_told_before_the_first_file(hvt_server, capsys):
    hvt_server.claimed_length = 10**18
    with pytest.raises(SystemExit) as end:
        run('weights', ['fetch', 'hvt-ti-1_in1k'])
    assert end.value.code == 2
    assert 'error: the files take 1000000000000 MB' in capsys.readouterr().err
    assert not hvt_server.downloads()


@pytest.mark.parametrize('argv, message', [
    (['fetch'], 'expected either names or --all'),
    (['fetch', 'hvt*', '--all'], 'expected either names or --all'),
    (['list', 'vgg*'], 'no official weights are named vgg*'),
])
def test_wrong_arguments(argv, message, capsys):
    with pytest.raises(SystemExit) as end:
        run('weights', argv)
    assert end.value.code == 2
    assert f'error: {message}' in capsys.readouterr().err.replace(
        'error: fetch: ', 'error: ')


def test_list_without_network(no_network, capsys):
    run('weights', ['list', 'hvt*'])
    assert 'Sizes are unknown: http://127.0.0.1:9/' in capsys.readouterr().out
