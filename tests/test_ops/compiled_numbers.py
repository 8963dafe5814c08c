"""Numbers of the compiled operators of mmcv, stored in tests/data/ops.

``python -m tests.test_ops.compiled_numbers`` computes them anew, where mmcv
has compiled operators.
"""
import json
from pathlib import Path

import numpy as np
import torch
from mmcv.ops import (
    batched_nms,
    box_iou_rotated,
    deform_conv2d,
    modulated_deform_conv2d,
    nms,
    nms_match,
    nms_rotated,
    roi_align,
    roi_align_rotated,
    soft_nms,
)
from mmcv.ops.psa_mask import psa_mask

FOLDER = Path(__file__).parents[1] / 'data/ops'


class Draws:
    """Random tensors: numpy promises to keep RandomState's numbers."""

    def __init__(self, seed):
        self.state = np.random.RandomState(seed)

    def uniform(self, *shape, low=-1., high=1.):
        numbers = self.state.uniform(low, high, shape)
        return torch.from_numpy(numbers).float()

    def scores(self, count):
        """Without equal ones, whose order mmcv's sort leaves open."""
        return torch.from_numpy(self.state.permutation(count)).float() / 1000

    def boxes(self, count, integer=False):
        corners = self.uniform(count, 2, low=0, high=100)
        sizes = self.uniform(count, 2, low=0, high=100)
        boxes = torch.cat([corners, corners + sizes], 1)
        # Many equal boxes, and IoUs that hit a threshold exactly.
        return boxes.div(10).round() if integer else boxes

    def rotated_boxes(self, count):
        return torch.cat([
            self.uniform(count, 2, low=0, high=60),
            self.uniform(count, 2, low=5, high=40),
            self.uniform(count, 1, low=-4, high=4)
        ], 1)


def differentiate(output, *inputs):
    """Return an output and its gradients for an uneven upstream gradient."""
    upstream = torch.arange(output.numel()).remainder(7).sub(3).view_as(output)
    gradients = torch.autograd.grad(output, inputs, upstream.to(output.dtype))
    return [output.detach(), *gradients]


def leaves(*tensors):
    return [tensor.requires_grad_() for tensor in tensors]


def nms_numbers():
    draws = Draws(0)
    for integer in (False, True):
        boxes, scores = draws.boxes(150, integer), draws.scores(150)
        for iou_threshold in (.3, .5, .6, .7):
            for offset in (0, 1):
                yield nms(boxes, scores, iou_threshold, offset)[1]
    classes = torch.arange(150) % 3
    yield batched_nms(boxes, scores, classes, dict(iou_threshold=.5))[1]


def soft_nms_numbers():
    draws = Draws(1)
    for integer in (False, True):
        boxes, scores = draws.boxes(60, integer), draws.scores(60)
        if integer:
            # Its selection keeps the order of equal scores.
            scores = scores.mul(300).round().div(20)
            # Where two boxes have no area mmcv's Gaussian is not a number.
            boxes[:, 2:] += 1
        for method in ('naive', 'linear', 'gaussian'):
            for offset, min_score in ((0, 0.), (1, 0.), (0, .03)):
                dets, inds = soft_nms(boxes, scores, .3, .5, min_score, method,
                                      offset)
                yield from (dets[:, 4], inds)


def nms_match_numbers():
    draws = Draws(2)
    for iou_threshold in (.2, .5, .8):
        dets = torch.cat([draws.boxes(50), draws.scores(50)[:, None]], 1)
        groups = nms_match(dets, iou_threshold)
        yield torch.cat(groups)
        yield torch.tensor([len(group) for group in groups])


def nms_rotated_numbers():
    draws = Draws(3)
    for iou_threshold in (.1, .3, .6):
        boxes, scores = draws.rotated_boxes(80), draws.scores(80)
        labels = torch.arange(80.) % 3
        for clockwise in (True, False):
            yield nms_rotated(
                boxes, scores, iou_threshold, clockwise=clockwise)[1]
        yield nms_rotated(boxes, scores, iou_threshold, labels)[1]


def box_iou_rotated_numbers():
    draws = Draws(4)
    boxes1, boxes2 = draws.rotated_boxes(12), draws.rotated_boxes(9)
    boxes1[0, 2] = 0
    boxes2[0, 4] = boxes2[1, 4] = 0
    # Inside of one another; one the other turned by a right angle.
    boxes1[1, :2], boxes1[1, 2:4] = boxes2[2, :2], boxes2[2, 2:4] / 2
    boxes1[2] = boxes2[3, [0, 1, 3, 2, 4]] + boxes1.new_tensor(
        [0, 0, 0, 0, np.pi / 2])
    for mode in ('iou', 'iof'):
        for clockwise in (True, False):
            yield box_iou_rotated(boxes1, boxes2, mode, clockwise=clockwise)
        yield box_iou_rotated(boxes1[:9], boxes2, mode, aligned=True)


def roi_align_numbers():
    draws = Draws(5)
    feats, = leaves(draws.uniform(2, 3, 12, 14))
    rois = torch.cat([torch.arange(10.)[:, None] % 2,
                      draws.boxes(10) / 8 - 5], 1)
    for aligned in (False, True):
        for sampling_ratio in (0, 2):
            output = roi_align(feats, rois, (3, 2), .5, sampling_ratio, 'avg',
                               aligned)
            yield from differentiate(output, feats)


def roi_align_rotated_numbers():
    draws = Draws(6)
    feats, = leaves(draws.uniform(2, 3, 12, 14))
    rois = torch.cat(
        [torch.arange(10.)[:, None] % 2,
         draws.rotated_boxes(10) / 2], 1)
    for aligned in (False, True):
        for sampling_ratio, clockwise in ((0, False), (2, True)):
            output = roi_align_rotated(feats, rois, (3, 2), .5, sampling_ratio,
                                       aligned, clockwise)
            yield from differentiate(output, feats)


# kernel, stride, padding, dilation, groups, deformable groups
CONVOLUTIONS = [
    ((3, 3), 1, 1, 1, 1, 1),
    ((3, 2), (1, 2), (2, 1), (2, 1), 2, 1),
    ((1, 3), 2, (0, 2), 1, 1, 2),
]


def draw_convolution(draws, kernel, stride, padding, dilation, groups,
                     deform_groups):
    """Return input, offsets and weight; half of the offsets are 0, which
    puts samples on the border of the padding, at -1."""
    input = draws.uniform(2, 4, 7, 6)
    weight = draws.uniform(2, 4 // groups, *kernel)
    size = torch.nn.functional.conv2d(input, weight, None, stride, padding,
                                      dilation, groups).shape[2:]
    samples = deform_groups * kernel[0] * kernel[1]
    offset = draws.uniform(2, 2 * samples, *size, low=-2, high=2)
    offset[draws.uniform(*offset.shape) > 0] = 0
    return input, offset, weight, samples, size


def deform_conv_numbers():
    for number, geometry in enumerate(CONVOLUTIONS):
        input, offset, weight, _, _ = draw_convolution(
            Draws(10 + number), *geometry)
        inputs = leaves(input, offset, weight)
        output = deform_conv2d(*inputs, *geometry[1:])
        yield from differentiate(output, *inputs)


def modulated_deform_conv_numbers():
    for number, geometry in enumerate(CONVOLUTIONS):
        draws = Draws(20 + number)
        input, offset, weight, samples, size = draw_convolution(
            draws, *geometry)
        mask = draws.uniform(2, samples, *size, low=0)
        bias = draws.uniform(2)
        inputs = leaves(input, offset, mask, weight, bias)
        output = modulated_deform_conv2d(*inputs, *geometry[1:])
        yield from differentiate(output, *inputs)


def larger_offset_numbers():
    """DyHead's offsets are those of a larger map than the output."""
    draws = Draws(30)
    both = draws.uniform(2, 27, 5, 6)
    inputs = leaves(
        draws.uniform(2, 4, 4, 3), both[:, :18], both[:, 18:].sigmoid(),
        draws.uniform(2, 4, 3, 3))
    for stride in (1, 2):
        output = modulated_deform_conv2d(*inputs, None, stride, 1)
        yield from differentiate(output, *inputs)


def psa_mask_numbers():
    draws = Draws(7)
    for mask_size in ((5, 3), (7, 7), (2, 4)):
        masks, = leaves(draws.uniform(2, mask_size[0] * mask_size[1], 4, 3))
        for psa_type in (0, 1):
            yield from differentiate(
                psa_mask(masks, psa_type, mask_size), masks)


NUMBERS = {
    'box_iou_rotated': box_iou_rotated_numbers,
    'deform_conv': deform_conv_numbers,
    'larger_offset': larger_offset_numbers,
    'modulated_deform_conv': modulated_deform_conv_numbers,
    'nms': nms_numbers,
    'nms_match': nms_match_numbers,
    'nms_rotated': nms_rotated_numbers,
    'psa_mask': psa_mask_numbers,
    'roi_align': roi_align_numbers,
    'roi_align_rotated': roi_align_rotated_numbers,
    'soft_nms': soft_nms_numbers,
}


def read_arguments(names):
    """Read the names of the arguments of compiled operators."""
    from mmcv import _ext
    signatures = {}
    for name in names:
        text = getattr(_ext, name).__doc__.partition('(')[2]
        arguments = text.partition(') ->')[0].split(', ')
        signatures[name] = [
            argument.partition(':')[0] for argument in arguments
        ]
    return signatures


def main():
    from mmhier.ops import operator_source
    from mmhier.ops.operators import OPERATORS
    assert operator_source() == 'compiled', operator_source()
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, compute in NUMBERS.items():
        np.savez_compressed(FOLDER / f'{name}.npz',
                            *[tensor.numpy() for tensor in compute()])
    lines = [
        f'{json.dumps(name)}: {json.dumps(arguments)}'
        for name, arguments in read_arguments(OPERATORS).items()
    ]
    text = '{\n' + ',\n'.join(lines) + '\n}\n'
    (FOLDER / 'arguments.json').write_text(text)


if __name__ == '__main__':
    main()
