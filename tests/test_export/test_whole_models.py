"""Whole models in onnxruntime, their missing steps added as mmdet has them."""
import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import batched_nms
from mmhier.apis import MMHierError
from mmhier.datasets.classes import set_num_classes
from mmhier.export import build_graphs
from mmhier.export.checking import check_export
from mmhier.export.exporting import graph_paths, write_graph
from mmhier.export.preparing import prepare_for_export
from mmhier.registry import MODELS
from ..config_zoo import build, read, register_all, shrink
from ..lanes import exports_sizes

onnxruntime = pytest.importorskip('onnxruntime')
pytestmark = exports_sizes
NAMES = dict(
    retinanet='configs/lit/retinanet_lit-tiny_fpn_1x_coco.py',
    mask_rcnn='configs/lit/mask-rcnn_lit-tiny_fpn_1x_coco.py',
    upernet='configs/lit/upernet_lit-tiny_160k_ade20k-512x512.py',
    semantic_fpn='configs/lit/semantic-fpn_lit-tiny_80k_ade20k-512x512.py',
    cascade='configs/lit/cascade-mask-rcnn_lit-small_fpn_ms-3x_coco.py')
SIZES = [(64, 64), (97, 150), (160, 131)]


def slim(kind):
    """A model with random weights, none of them near its initial value."""
    register_all()
    cfg = read(NAMES[kind])
    set_num_classes(cfg, 3)
    shrink(cfg)
    channels = [16, 16, 32, 32]
    cfg.model.backbone.arch.update(
        embed_dims=channels, num_heads=(2, 2), mlp_ratios=(2, ) * 4)
    if 'neck' in cfg.model:
        cfg.model.neck.in_channels = channels
    else:
        cfg.model.decode_head.in_channels = channels
        cfg.model.auxiliary_head.in_channels = channels[2]
    if kind == 'retinanet':
        cfg.model.test_cfg.update(nms_pre=10**6, score_thr=0.4)
    torch.manual_seed(0)
    model = build(cfg).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def export(model, out):
    """Write all graphs; their functions from arrays to tensors."""
    graphs = build_graphs(prepare_for_export(model))
    runs = []
    for graph, path in zip(graphs, graph_paths(out, graphs)):
        write_graph(graph, path)
        session = onnxruntime.InferenceSession(path)

        def run(*inputs, names=tuple(graph.inputs), session=session):
            feed = {n: x.numpy() for n, x in zip(names, inputs)}
            return [torch.from_numpy(x) for x in session.run(None, feed)]

        runs.append(run)
    return runs


def assert_equal_at_sizes_unseen(model, out):
    differences = check_export(model, out, sizes=SIZES)
    assert max(d.error for d in differences) < 1e-4, differences
    return {d.output for d in differences}


def preprocessed(model):
    """Two images of smooth blobs, of different sizes, padded as one batch."""
    from mmdet.structures import DetDataSample
    generator = torch.Generator().manual_seed(0)
    images, samples = [], []
    for height, width in [(120, 150), (101, 90)]:
        coarse = torch.rand(1, 3, 9, 11, generator=generator) * 255
        image = F.interpolate(coarse, (height, width), mode='bicubic')
        images.append(image[0].clamp(0, 255).byte())
        samples.append(
            DetDataSample(
                metainfo=dict(
                    img_shape=(height, width),
                    ori_shape=(height, width),
                    scale_factor=(1., 1.))))
    data = model.data_preprocessor(
        dict(inputs=images, data_samples=samples), False)
    return data['inputs'], data['data_samples']


def clip(boxes, size):
    """Boxes (..., 4) inside of an image of (height, width)."""
    height, width = size
    limits = torch.tensor([width, height, width, height])
    return boxes.clamp(min=0).minimum(limits)


def detect(boxes, scores, cfg):
    """Boxes, scores and labels that remain of (N, C, 4) and (N, C)."""
    rows, labels = torch.where(scores > cfg.score_thr)
    scores = scores[rows, labels]
    boxes = boxes[rows, labels if boxes.shape[1] > 1 else 0]
    keep = batched_nms(boxes, scores, labels, cfg.nms.iou_threshold)
    keep = keep[:cfg.max_per_img]
    return boxes[keep], scores[keep], labels[keep]


def assert_same_detections(result, boxes, scores, labels):
    assert len(boxes) > 2
    assert torch.equal(result.labels, labels)
    torch.testing.assert_close(result.scores, scores, atol=1e-4, rtol=0)
    torch.testing.assert_close(result.bboxes, boxes, atol=1e-3, rtol=1e-4)


@pytest.mark.slow
def test_retinanet_detects_what_mmdet_does(tmp_path):
    model = slim('retinanet')
    out = tmp_path / 'model.onnx'
    run, = export(model, out)
    outputs = assert_equal_at_sizes_unseen(model, out)
    assert outputs == {'boxes', 'scores'}
    images, samples = preprocessed(model)
    boxes, scores = run(images)
    results = model.predict(images, samples, rescale=False)
    for i, sample in enumerate(results):
        clipped = clip(boxes[i], sample.img_shape)
        kept = has_area(clipped)
        found = detect(clipped[kept, None], scores[i][kept], model.test_cfg)
        assert_same_detections(sample.pred_instances, *found)


def has_area(boxes):
    return (boxes[:, 2:] > boxes[:, :2]).all(1)


def propose(boxes, scores, levels, size, cfg):
    """Boxes that remain of one image's (N, 4), by level."""
    kept = torch.cat([
        rows[scores[rows].argsort(descending=True)[:cfg.nms_pre]]
        for rows in (torch.where(levels == i)[0]
                     for i in range(int(levels.max()) + 1))
    ])
    boxes = clip(boxes[kept], size)
    kept, boxes = kept[has_area(boxes)], boxes[has_area(boxes)]
    keep = batched_nms(boxes, scores[kept], levels[kept], cfg.nms.iou_threshold)
    return boxes[keep[:cfg.max_per_img]]


def with_index(boxes, index):
    return torch.cat((torch.full((len(boxes), 1), float(index)), boxes), 1)


@pytest.mark.slow
def test_mask_rcnn_detects_what_mmdet_does(tmp_path):
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
    model = slim('mask_rcnn')
    out = tmp_path / 'model.onnx'
    run_proposals, run_boxes, run_masks = export(model, out)
    outputs = assert_equal_at_sizes_unseen(model, out)
    assert outputs == {
        'boxes', 'scores', 'levels', 'masks', 'map0', 'map1', 'map2', 'map3'
    }
    images, samples = preprocessed(model)
    anchors, objectness, levels, *maps = run_proposals(images)
    for i, sample in enumerate(model.predict(images, samples, rescale=False)):
        size = sample.img_shape
        rois = with_index(
            propose(anchors[i], objectness[i], levels, size,
                    model.test_cfg.rpn), i)
        scores, boxes = run_boxes(*maps, rois)
        boxes, scores, labels = detect(
            clip(boxes, size), scores[:, :-1], model.test_cfg.rcnn)
        result = sample.pred_instances
        assert_same_detections(result, boxes, scores, labels)
        logits, = run_masks(*maps, with_index(boxes, i))
        probs = logits[torch.arange(len(labels)), labels].sigmoid()
        masks, _ = _do_paste_mask(probs[:, None], boxes, *size, False)
        same = (masks >= 0.5) == result.masks
        assert result.masks.any() and same.float().mean() > 0.999


@pytest.mark.slow
@pytest.mark.parametrize('name, sizes', [
    ('mask_rcnn', [(65, 65), (97, 150), (160, 131), (128, 224)]),
    ('retinanet', [(129, 129), (150, 257), (256, 131)]),
])
def test_programs_of_detectors_are_equal_at_odd_and_even_sizes(
        name, sizes, tmp_path):
    model = slim(name)
    out = tmp_path / 'model.pt2'
    graphs = build_graphs(prepare_for_export(model))
    for graph, path in zip(graphs, graph_paths(out, graphs)):
        write_graph(graph, path, 'torch')
        program = torch.export.load(path).module()
        # The coarsest level subsamples maps of odd and of even sides.
        for size in sizes:
            inputs = graph.example_inputs(1, *size)
            with torch.no_grad():
                torch.testing.assert_close(
                    program(*inputs), graph(*inputs), atol=1e-5, rtol=1e-4)
    with pytest.raises(
            MMHierError,
            match=f'from {sizes[0][0]}, so it cannot be '
            'checked with --sizes 80x64'):
        check_export(model, out, sizes=[(80, 64)])


@pytest.mark.slow
def test_upernet_labels_what_mmseg_does(tmp_path):
    model = slim('upernet')
    out = tmp_path / 'model.onnx'
    run, = export(model, out)
    assert assert_equal_at_sizes_unseen(model, out) == {'logits'}
    images = torch.randn(2, 3, 90, 75)
    logits, = run(images)
    for i, sample in enumerate(model.predict(images)):
        torch.testing.assert_close(
            logits[i], sample.seg_logits.data, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_semantic_fpn_is_equal_at_sizes_unseen(tmp_path):
    model = slim('semantic_fpn')
    export(model, tmp_path / 'model.onnx')
    assert_equal_at_sizes_unseen(model, tmp_path / 'model.onnx')


@pytest.mark.slow
def test_hvts_classifier_gives_mmpretrains_scores(tmp_path):
    """Its head reads the mean of the last tokens, and no map."""
    register_all()
    cfg = read('configs/hvt/hvt-s-1_8xb128_in1k.py')
    backbone = cfg.model.backbone
    arch = MODELS.get(backbone.type).resolve_arch(backbone.arch)
    backbone.arch = dict(arch, depth=4)
    torch.manual_seed(0)
    model = build(cfg).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    out = tmp_path / 'model.pt2'
    graph, = build_graphs(prepare_for_export(model))
    write_graph(graph, out, 'torch')
    assert assert_equal_at_sizes_unseen(model, out) == {'scores'}
    images = torch.randn(2, 3, 97, 150)
    scores = torch.export.load(out).module()(images)
    for i, sample in enumerate(model.predict(images)):
        torch.testing.assert_close(
            scores[i], sample.pred_score, atol=1e-5, rtol=1e-4)


def test_what_cannot_be_exported_is_named():
    model = slim('cascade')
    with pytest.raises(
            MMHierError,
            match='roi_head.type=CascadeRoIHead cannot '
            'be exported as a whole.*--part backbone'):
        build_graphs(model)
    assert len(build_graphs(model, 'backbone')) == 1
