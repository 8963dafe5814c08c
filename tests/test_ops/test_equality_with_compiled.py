"""mmhier's operators beside those of a compiled mmcv, where there is one."""
import pytest
import torch


def random_boxes(count, integer):
    """Without equal scores: mmcv's sort leaves their order open."""
    generator = torch.Generator().manual_seed(count)
    corners = 300 * torch.rand(count, 2, generator=generator)
    sizes = 100 * torch.rand(count, 2, generator=generator)
    boxes = torch.cat([corners, corners + sizes], 1)
    if integer:
        # Many equal boxes, and IoUs that hit a threshold exactly.
        boxes = boxes.div(20).round()
    scores = torch.randperm(count, generator=generator) / 1000
    return boxes, scores


@pytest.mark.parametrize('integer', [False, True])
@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('iou_threshold', [.3, .5, .6, .7])
@pytest.mark.parametrize('count', [0, 1, 500])
def test_nms(ext, compiled_ext, count, iou_threshold, offset, integer):
    boxes, scores = random_boxes(count, integer)
    arguments = dict(iou_threshold=iou_threshold, offset=offset)
    assert torch.equal(
        ext.nms(boxes, scores, **arguments),
        compiled_ext.nms(boxes, scores, **arguments))


@pytest.mark.parametrize('integer', [False, True])
@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('method', [0, 1, 2])
@pytest.mark.parametrize('min_score', [0., .05])
def test_softnms(ext, compiled_ext, min_score, method, offset, integer):
    boxes, scores = random_boxes(300, integer)
    if integer:
        # Its selection keeps the order of equal scores.
        scores = scores.mul(20).round().div(20)
        # Where two boxes have no area mmcv's Gaussian is not a number.
        boxes[:, 2:] += 1
    results = []
    for module in (ext, compiled_ext):
        dets = torch.zeros(300, 5)
        inds = module.softnms(
            boxes,
            scores,
            dets,
            iou_threshold=.3,
            sigma=.5,
            min_score=min_score,
            method=method,
            offset=offset)
        results.append((inds, dets[:len(inds)]))
    (inds, dets), (expected_inds, expected_dets) = results
    assert torch.equal(inds, expected_inds)
    assert torch.allclose(dets, expected_dets, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('sampling_ratio', [0, 2])
@pytest.mark.parametrize('count', [0, 40])
def test_roi_align(ext, compiled_ext, count, sampling_ratio, aligned, dtype):
    boxes, _ = random_boxes(count, integer=False)
    index = torch.arange(count)[:, None] % 2
    rois = torch.cat([index, boxes - 40], 1).to(dtype)
    feats = torch.rand(2, 3, 60, 70, dtype=dtype)
    grad_output = torch.rand(count, 3, 7, 5, dtype=dtype)
    arguments = dict(
        aligned_height=7,
        aligned_width=5,
        spatial_scale=.25,
        sampling_ratio=sampling_ratio,
        pool_mode=1,
        aligned=aligned)
    outputs, grads = [], []
    for module in (ext, compiled_ext):
        argmax = torch.zeros(0, dtype=dtype)
        outputs.append(torch.zeros_like(grad_output))
        module.roi_align_forward(feats, rois, outputs[-1], argmax, argmax,
                                 **arguments)
        grads.append(torch.zeros_like(feats))
        module.roi_align_backward(grad_output, rois, argmax, argmax,
                                  grads[-1], **arguments)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    assert torch.allclose(*outputs, rtol=tolerance, atol=tolerance)
    assert torch.allclose(*grads, rtol=tolerance, atol=tolerance)


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason='mmcv has focal loss for CUDA only')
@pytest.mark.parametrize('with_weight', [False, True])
def test_sigmoid_focal_loss(ext, compiled_ext, with_weight):
    logits = 2 * torch.randn(200, 5, device='cuda')
    targets = torch.randint(0, 5 if with_weight else 6, (200, )).cuda()
    weight = torch.rand(5 if with_weight else 0, device='cuda')
    for name in ('sigmoid_focal_loss_forward', 'sigmoid_focal_loss_backward'):
        buffers = []
        for module in (ext, compiled_ext):
            buffers.append(torch.zeros_like(logits))
            getattr(module, name)(
                logits, targets, weight, buffers[-1], gamma=2., alpha=.25)
        assert torch.allclose(*buffers, rtol=1e-3, atol=1e-5)
