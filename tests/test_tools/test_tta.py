"""Test-time augmentation of detectors and segmentors."""
import copy
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import Compose, pseudo_collate
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmhier import apis
from mmhier.engine.pretrained import find_pretrained
from mmhier.registry import MODELS
from ..config_zoo import build, read, register_all, shrink
from .conftest import DETECTOR

HEIGHT, WIDTH = 64, 96
DETECTORS = {
    'masks': 'configs/hatnet/mask-rcnn_hatnet-tiny_fpn_1x_coco.py',
    'boxes': 'configs/hatnet/retinanet_hatnet-tiny_fpn_1x_coco.py',
    'cascade': 'configs/hatnet/cascade-mask-rcnn_hatnet-small_fpn_ms-3x_coco.py'
}
# Weights larger than initial ones, so that predictions differ.
DEVIATIONS = {
    'fc_cls.weight': 1.,
    'conv_logits.weight': 1.,
    'retina_cls.weight': 0.2,
    'conv_seg.weight': 1.,
    'cls_embed.weight': 1.,
    'mask_embed.4.weight': 5.
}
SEGMENTORS = {
    'upernet':
    'configs/hvt/upernet_hvt-ti-1_160k_ade20k-512x512.py',
    'semantic-fpn':
    'configs/hatnet/'
    'semantic-fpn_hatnet-tiny_80k_ade20k-512x512.py',
    'mask2former':
    'configs/hatnet/'
    'mask2former_hatnet-small_160k_ade20k-512x512.py'
}


@pytest.fixture(scope='module', autouse=True)
def quiet():
    register_all()
    MMLogger.get_current_instance().setLevel(logging.WARNING)


@pytest.fixture(scope='module')
def photo(tmp_path_factory) -> Path:
    """A picture of blurred noise and a bright box, and its mirror image."""
    folder = tmp_path_factory.mktemp('photos')
    image = np.random.default_rng(0).integers(
        0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    image = cv2.blur(image, (5, 5))
    image[12:40, 8:44] = (30, 200, 250)
    cv2.imwrite(str(folder / 'photo.png'), image)
    cv2.imwrite(str(folder / 'mirrored.png'), image[:, ::-1])
    return folder / 'photo.png'


def load(cfg, path: Path, views) -> dict:
    """Batch of one photo in views (scale, whether mirrored)."""
    pipeline = copy.deepcopy(cfg.tta_pipeline)
    augmentation = pipeline[1].transforms
    augmentation.pop(-2)
    samples = []
    for scale, mirrored in views:
        augmentation[0] = [
            dict(
                type='Resize',
                scale=(int(WIDTH * scale), int(HEIGHT * scale)),
                keep_ratio=True)
        ]
        augmentation[-2] = [dict(type='RandomFlip', prob=float(mirrored))]
        data = dict(img_path=str(path), img_id=0)
        samples.append(Compose(pipeline)(data))
    return pseudo_collate([{
        key: [value for s in samples for value in s[key]]
        for key in samples[0]
    }])


def make(name: str):
    """Model with random weights, the config, and the model under TTA."""
    torch.manual_seed(0)
    cfg = read(name)
    shrink(cfg)
    find_pretrained(cfg, from_scratch=True)
    init_default_scope(cfg.default_scope)
    model = revert_sync_batchnorm(build(cfg))
    model.init_weights()
    for part, parameter in model.named_parameters():
        for layer, std in DEVIATIONS.items():
            if part.endswith(layer):
                torch.nn.init.normal_(parameter, std=std)
    model.eval()
    return model, cfg, MODELS.build({**cfg.tta_model, 'module': model})


def predict(model, cfg, path, scale=1.) -> object:
    """Prediction without augmentation."""
    batch = load(cfg, path, [(scale, False)])
    return step(model, {key: values[0] for key, values in batch.items()})


@torch.no_grad()
def step(model, batch) -> object:
    result, = model.test_step(batch)
    return result


def assert_same_instances(found, expected, atol=1e-3) -> None:
    assert len(expected) > 2 and expected.scores.unique().numel() > 2
    assert torch.equal(found.labels, expected.labels)
    assert torch.allclose(found.scores, expected.scores, atol=1e-5)
    assert torch.allclose(found.bboxes, expected.bboxes, atol=atol)
    assert ('masks' in found) == ('masks' in expected)
    if 'masks' in expected:
        assert found.masks.shape == (len(expected), HEIGHT, WIDTH)
        assert 0.003 < expected.masks.float().mean() < 0.99
        assert (found.masks == expected.masks).float().mean() > 0.999


@pytest.mark.parametrize('name', DETECTORS)
@pytest.mark.parametrize('views', [[(1, 0)], [(2, 0)], [(1, 0), (1, 0)]])
def test_identity_view_of_a_detector_changes_nothing(name, views, photo):
    model, cfg, augmented = make(DETECTORS[name])
    plain = predict(model, cfg, photo, views[0][0])
    merged = step(augmented, load(cfg, photo, views))
    assert_same_instances(merged.pred_instances, plain.pred_instances)
    assert merged.ori_shape == (HEIGHT, WIDTH)


@pytest.mark.parametrize('name', DETECTORS)
def test_mirrored_view_of_a_mirrored_photo_is_the_photo_s(name, photo):
    model, cfg, augmented = make(DETECTORS[name])
    expected = predict(model, cfg, photo).pred_instances
    expected.bboxes[:, [2, 0]] = WIDTH - expected.bboxes[:, [0, 2]]
    if 'masks' in expected:
        expected.masks = expected.masks.flip(2)
    mirrored = photo.with_name('mirrored.png')
    found = step(augmented, load(cfg, mirrored, [(1, True)]))
    assert_same_instances(found.pred_instances, expected)


@pytest.mark.parametrize('name', DETECTORS)
def test_views_are_merged(name, photo):
    model, cfg, augmented = make(DETECTORS[name])
    augmented.tta_cfg.max_per_img = 7
    views = [(1, False), (1, True), (2, False)]
    merged = step(augmented, load(cfg, photo, views)).pred_instances
    assert len(merged) == 7
    # The best box of all views survives NMS.
    best = max(
        step(augmented, load(cfg, photo, [view])).pred_instances.scores[0]
        for view in views)
    assert merged.scores[0] == pytest.approx(best.item(), abs=1e-6)


def test_nothing_found_in_any_view(photo):
    model, cfg, augmented = make(DETECTORS['masks'])
    model.roi_head.test_cfg.score_thr = 1.1
    found = step(augmented, load(cfg, photo, [(1, False), (1, True)]))
    assert len(found.pred_instances) == 0
    assert found.pred_instances.masks.shape == (0, HEIGHT, WIDTH)


def test_views_that_do_not_say_how_they_are_flipped(photo):
    _, cfg, augmented = make(DETECTORS['boxes'])
    pack = cfg.tta_pipeline[1].transforms[-1][0]
    pack.meta_keys = pack.meta_keys[:5]
    with pytest.raises(ValueError, match='add flip and flip_direction'):
        step(augmented, load(cfg, photo, [(1, False)]))


def test_masks_without_an_roi_head(photo):
    model, _, augmented = make(DETECTORS['boxes'])
    model.mask_head = torch.nn.Identity()
    with pytest.raises(ValueError, match='RoI heads only.*RetinaNet has none'):
        step(augmented, {})


def test_masks_of_mask2former(photo):
    _, cfg, augmented = make(
        'configs/hatnet/mask2former_hatnet-small_lsj-50e_coco.py')
    batch = load(cfg, photo, [(1, False)])
    with pytest.raises(ValueError, match='RoI heads only.*Mask2Former has'):
        step(augmented, batch)


@pytest.mark.parametrize('name', SEGMENTORS)
@pytest.mark.parametrize('scale', [1, 1.5])
def test_identity_view_of_a_segmentor_changes_nothing(name, scale, photo):
    model, cfg, augmented = make(SEGMENTORS[name])
    plain = predict(model, cfg, photo, scale).pred_sem_seg.data
    merged = step(augmented, load(cfg, photo, [(scale, False)]))
    assert plain.unique().numel() > 2
    assert torch.equal(merged.pred_sem_seg.data, plain)


@pytest.mark.parametrize('name', SEGMENTORS)
def test_mirrored_view_of_a_segmentor_is_turned_back(name, photo):
    model, cfg, augmented = make(SEGMENTORS[name])
    expected = predict(model, cfg, photo).pred_sem_seg.data.flip(2)
    mirrored = photo.with_name('mirrored.png')
    found = step(augmented, load(cfg, mirrored, [(1, True)]))
    assert torch.equal(found.pred_sem_seg.data, expected)


def test_views_of_a_segmentor_are_averaged_as_by_mmseg(photo):
    model, cfg, augmented = make(SEGMENTORS['upernet'])
    views = [(scale, flip) for scale in (0.75, 1, 1.5) for flip in (0, 1)]
    batch = load(cfg, photo, views)
    reference = MODELS.build(dict(type='mmseg.SegTTAModel', module=model))
    expected = step(reference, copy.deepcopy(batch)).pred_sem_seg.data
    found = step(augmented, batch)
    assert (found.pred_sem_seg.data[0] == expected).float().mean() > 0.999
    single = predict(model, cfg, photo).pred_sem_seg.data[0]
    assert not torch.equal(single, expected)
    assert 'seg_logits' not in found


def test_scores_of_mask2former_are_averaged_as_they_are(photo):
    model, cfg, augmented = make(SEGMENTORS['mask2former'])
    batch = load(cfg, photo, [(0.75, False), (1.5, True)])
    views = [
        step(model, {
            k: v[i]
            for k, v in copy.deepcopy(batch).items()
        }) for i in range(2)
    ]
    scores = [view.seg_logits.data for view in views]
    expected = sum(scores).argmax(0)
    assert (sum(s.softmax(0) for s in scores).argmax(0) != expected).any()
    found = step(augmented, batch).pred_sem_seg.data[0]
    assert torch.equal(found, expected)


@pytest.mark.parametrize('name, num_views', [
    *[(name, 6)
      for name in DETECTORS.values()], *[(name, 12)
                                         for name in SEGMENTORS.values()]
])
def test_views_of_the_configs(name, num_views):
    cfg = read(name)
    assert cfg.tta_model.type.startswith('mmhier.')
    init_default_scope(cfg.default_scope)
    augmentation = Compose(cfg.tta_pipeline).transforms[1]
    assert len(augmentation.subroutines) == num_views
    # One of them is the pipeline without augmentation.
    plain = [{
        k: v
        for k, v in t.items() if k != 'meta_keys'
    } for t in cfg.test_pipeline[1:] if t['type'] != 'RandomFlip']
    steps = [
        choices for choices in cfg.tta_pipeline[1].transforms
        if choices[0]['type'] != 'RandomFlip'
    ]
    assert len(steps) == len(plain)
    for transform, choices in zip(plain, steps):
        assert transform in [{
            k: v
            for k, v in c.items() if k != 'meta_keys'
        } for c in choices]


def test_boxes_and_masks_are_evaluated(detector_run, coco_root, tmp_path):
    checkpoint = (Path(detector_run.work_dir) / 'last_checkpoint').read_text()
    metrics = apis.test(
        DETECTOR,
        checkpoint,
        data_root=str(coco_root),
        work_dir=str(tmp_path),
        tta=True,
        cfg_options={
            f'tta_pipeline.1.transforms.0.{i}.scale': (96 + 48 * i, 999)
            for i in range(3)
        })
    assert {'coco/bbox_mAP', 'coco/segm_mAP'} <= set(metrics)
