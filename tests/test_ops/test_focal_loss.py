import math

import pytest
import torch
from mmcv.ops import (
    SigmoidFocalLoss,
    SoftmaxFocalLoss,
    sigmoid_focal_loss,
    softmax_focal_loss,
)
from torch.autograd import gradcheck
from torch.nn.functional import one_hot
from torchvision.ops import sigmoid_focal_loss as torchvision_focal_loss

pytestmark = pytest.mark.usefixtures('ext')
LN2 = math.log(2)


def random_case(dtype=torch.float64, scale=4):
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(20, 3, generator=generator, dtype=dtype)
    targets = torch.randint(0, 4, (20, ), generator=generator)
    assert set(targets.tolist()) == {0, 1, 2, 3}  # 3 is background
    return logits.requires_grad_(), targets


def expected_loss(logits, targets, gamma, alpha):
    return torchvision_focal_loss(logits,
                                  one_hot(targets, 4)[:, :3].to(logits), alpha,
                                  gamma)


def test_focal_loss_at_zero_logits():
    """p = 1/2: -alpha / 4 log(1/2), with 1 - alpha for the other class."""
    logits = torch.zeros(1, 2, requires_grad=True)
    loss = sigmoid_focal_loss(logits, torch.tensor([1]), 2., .25, None, 'none')
    assert loss.tolist() == [pytest.approx([.75 * LN2 / 4, .25 * LN2 / 4])]
    loss.sum().backward()
    assert logits.grad.tolist() == [
        pytest.approx([.75 * (.5 + LN2) / 4, -.25 * (.5 + LN2) / 4])
    ]


@pytest.mark.parametrize('alpha', [.25, .6])
@pytest.mark.parametrize('gamma', [0., 1.5, 2.])
def test_focal_loss_equals_torchvision(gamma, alpha):
    logits, targets = random_case()
    loss = sigmoid_focal_loss(logits, targets, gamma, alpha, None, 'none')
    expected = expected_loss(logits, targets, gamma, alpha)
    assert torch.allclose(loss, expected, rtol=1e-10, atol=0)
    upstream = torch.rand_like(loss)
    grad, = torch.autograd.grad(loss, logits, upstream)
    expected_grad, = torch.autograd.grad(expected, logits, upstream)
    assert torch.allclose(grad, expected_grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('reduction', ['mean', 'sum'])
def test_focal_loss_reductions(reduction):
    """mmcv's mean divides by the rows, not by the elements."""
    logits, targets = random_case()
    loss = SigmoidFocalLoss(2., .25, reduction=reduction)(logits, targets)
    expected = expected_loss(logits, targets, 2., .25).sum()
    if reduction == 'mean':
        expected = expected / 20
    assert torch.allclose(loss, expected)
    grad, = torch.autograd.grad(loss, logits)
    expected_grad, = torch.autograd.grad(expected, logits)
    assert torch.allclose(grad, expected_grad)


def test_focal_loss_weights_rows_by_their_class():
    logits, targets = random_case()
    weight = torch.tensor([2., 3., 5.], dtype=torch.float64)
    loss = sigmoid_focal_loss(logits, targets, 2., .25, weight, 'none')
    row_weight = torch.tensor([2., 3., 5., 1.], dtype=torch.float64)[targets]
    expected = (expected_loss(logits, targets, 2., .25) * row_weight[:, None])
    assert torch.allclose(loss, expected)
    grad, = torch.autograd.grad(loss.sum(), logits)
    expected_grad, = torch.autograd.grad(expected.sum(), logits)
    assert torch.allclose(grad, expected_grad)


def test_focal_loss_at_extreme_logits():
    """The log of a float32 probability would be that of 0 here."""
    logits = torch.tensor([[100., -100.], [30., -30.]], requires_grad=True)
    targets = torch.tensor([1, 1])
    loss = sigmoid_focal_loss(logits, targets, 2., .25, None, 'none')
    assert torch.allclose(loss, torch.tensor([[75., 25.], [22.5, 7.5]]))
    loss.sum().backward()
    assert torch.allclose(logits.grad, torch.tensor([[.75, -.25]] * 2))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_focal_loss_in_half_precision(dtype):
    logits, targets = random_case(torch.float32)
    logits = logits.detach().to(dtype).requires_grad_()
    loss = sigmoid_focal_loss(logits, targets, 2., .25, None, 'none')
    expected = expected_loss(logits.float(), targets, 2., .25)
    assert torch.allclose(loss, expected.to(dtype), rtol=1e-2, atol=1e-6)
    loss.sum().backward()
    assert logits.grad.dtype == dtype and logits.grad.isfinite().all()


def test_focal_loss_of_no_rows():
    logits = torch.zeros(0, 3, requires_grad=True)
    loss = sigmoid_focal_loss(logits, torch.zeros(0, dtype=torch.long), 2., .25,
                              None, 'sum')
    assert loss == 0
    loss.backward()
    assert logits.grad.shape == (0, 3)


def test_softmax_focal_loss_at_equal_logits():
    """p = 1/2: -alpha / 4 log(1/2); no loss where the target is no class."""
    logits = torch.zeros(3, 2, requires_grad=True)
    targets = torch.tensor([1, -1, 2])
    loss = softmax_focal_loss(logits, targets, 2., .25, None, 'sum')
    assert loss.item() == pytest.approx(.25 * LN2 / 4)
    loss.backward()
    slope = .25 * (.25 + .5 * LN2) / 2
    assert logits.grad.flatten().tolist() == pytest.approx(
        [slope, -slope, 0, 0, 0, 0])


def test_softmax_focal_loss_without_focus_is_cross_entropy():
    logits, targets = random_case()
    weight = torch.tensor([2., 3., 5.], dtype=torch.float64)
    logits, targets = logits[targets < 3], targets[targets < 3]
    loss = SoftmaxFocalLoss(0., 1., weight)(logits, targets)
    expected = torch.nn.functional.cross_entropy(
        logits, targets, weight, reduction='sum') / len(targets)
    assert torch.allclose(loss, expected)
    leaf = logits.detach().requires_grad_()
    grads = [
        torch.autograd.grad(
            softmax_focal_loss(leaf, targets, 0., 1., weight, 'sum'), leaf),
        torch.autograd.grad(
            torch.nn.functional.cross_entropy(
                leaf, targets, weight, reduction='sum'), leaf)
    ]
    assert torch.allclose(grads[0][0], grads[1][0])


@pytest.mark.parametrize('gamma', [.5, 2.])
def test_softmax_focal_loss_gradcheck(gamma):
    logits, targets = random_case(scale=2)
    targets[targets == 3] = -1
    assert gradcheck(
        lambda x: softmax_focal_loss(x, targets, gamma, .25, None, 'mean'),
        (logits, ))


def test_softmax_focal_loss_of_certain_logits_is_finite():
    logits = torch.tensor([[200., 0], [0, 200]], requires_grad=True)
    targets = torch.tensor([0, 0])
    loss = softmax_focal_loss(logits, targets, .5, 1., None, 'sum')
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()
    assert logits.grad[0].eq(0).all()
