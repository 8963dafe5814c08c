"""Attention in chunks of queries equals attention at once, in less memory."""
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from mmhier.models.backbones import LIT
from mmhier.models.layers import (
    attend,
    attend_grid,
    relative_position_bias,
    window_position_bias,
)
from mmhier.models.layers.cpu import grid_attention
from mmhier.models.layers.cuda import grid_attention as cuda_grid_attention


def inputs(batch, heads, height, width, head_dim, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = [(batch, heads, height * width, head_dim)] * 3
    shapes.append(((2 * height - 1) * (2 * width - 1), heads))
    return [
        torch.randn(s, generator=generator, dtype=dtype).requires_grad_()
        for s in shapes
    ]


def at_once(q, k, v, table, height, width):
    bias = relative_position_bias(table, height, width)
    return attend(q, k, v, bias, attn_impl='eager')


def gradients(out, leaves):
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(out.shape, generator=generator).to(out)
    return torch.autograd.grad((out * weight).sum(), leaves)


@pytest.fixture(params=['cpu', 'cuda'])
def attend_in_parts(request):
    """The form of a device, both on the CPU."""
    return (grid_attention.attend_by_rows
            if request.param == 'cpu' else cuda_grid_attention.attend_by_chunks)


def limit_parts(monkeypatch, numbers):
    """Logits of this many numbers at a time."""
    monkeypatch.setattr(grid_attention, 'BUFFER_SIZE', numbers)
    monkeypatch.setattr(cuda_grid_attention, 'CHUNK_SIZE', numbers)


@pytest.mark.parametrize('batch', [1, 2])
@pytest.mark.parametrize('grid', [(5, 7), (1, 6), (6, 1), (7, 4)])
@pytest.mark.parametrize('buffer_size', [1, 600, 2**24])
def test_outputs_and_gradients_are_those_at_once(batch, grid, buffer_size,
                                                 attend_in_parts, monkeypatch):
    limit_parts(monkeypatch, buffer_size)
    leaves = inputs(batch, 3, *grid, 4)
    found = attend_in_parts(*leaves, *grid)
    wanted = at_once(*leaves, *grid)
    assert (found - wanted).abs().max() < 1e-12
    for a, b in zip(gradients(found, leaves), gradients(wanted, leaves)):
        assert (a - b).abs().max() < 1e-12
    with torch.no_grad():
        assert torch.equal(attend_in_parts(*leaves, *grid), found)


def test_half_precision_is_as_good_as_at_once(attend_in_parts, monkeypatch):
    limit_parts(monkeypatch, 2**12)
    exact = inputs(2, 3, 6, 10, 8, torch.float32)
    wanted = at_once(*exact, 6, 10)
    expected = [wanted, *gradients(wanted, exact)]
    q, k, v, table = exact
    found = attend_in_parts(*(x.bfloat16() for x in (q, k, v)), table, 6, 10)
    assert found.dtype == torch.bfloat16
    for a, b in zip([found, *gradients(found, exact)], expected):
        assert (a - b).std() < 0.02 * b.std()


class LargestTensor(TorchDispatchMode):
    """Records the most elements that any operator returned."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(x, torch.Tensor):
                stored = x.untyped_storage().nbytes() // x.element_size()
                self.numel = max(self.numel, stored)
        return out


def saved_bytes(forward) -> int:
    """Bytes of distinct storages that a forward pass keeps for backward."""
    storages = {}

    def pack(x):
        storage = x.untyped_storage()
        storages[storage.data_ptr()] = storage
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        out = forward()
    del out
    return sum(s.nbytes() for s in storages.values())


def test_nothing_grows_with_the_square_of_the_tokens(monkeypatch):
    monkeypatch.setattr(grid_attention, 'BUFFER_SIZE', 2**14)
    height, width = 24, 32
    leaves = inputs(1, 2, height, width, 4, torch.float32)
    logits = 2 * (height * width)**2
    with LargestTensor() as largest:
        gradients(attend_grid(*leaves, height, width), leaves)
    # One row of queries.
    assert largest.numel <= 2 * width * height * width < logits / 20
    with LargestTensor() as largest:
        gradients(at_once(*leaves, height, width), leaves)
    assert largest.numel >= logits
    in_chunks = saved_bytes(lambda: attend_grid(*leaves, height, width))
    assert in_chunks < 0.1 * saved_bytes(
        lambda: at_once(*leaves, height, width))


def test_lit_takes_it_by_default_and_not_otherwise(monkeypatch):
    calls = []
    apply = grid_attention._GridAttention.apply
    monkeypatch.setattr(grid_attention._GridAttention, 'apply',
                        lambda *args: calls.append(1) or apply(*args))
    for attn_impl in LIT.attn_impls:
        LIT('small', attn_impl=attn_impl).eval()(torch.zeros(1, 3, 64, 64))
        assert len(calls) == (8 if attn_impl == 'auto' else 0)
        calls.clear()
    torch.jit.trace(
        LIT('small', out_indices=(2, )).eval(),
        torch.zeros(1, 3, 32, 32),
        check_trace=False)
    assert not calls


def test_second_derivative_is_refused():
    leaves = inputs(1, 2, 3, 3, 4)
    out = attend_grid(*leaves, 3, 3)
    grad, = torch.autograd.grad(
        out.square().sum(), leaves[:1], create_graph=True)
    with pytest.raises(RuntimeError, match='once_differentiable'):
        grad.sum().backward()


@pytest.mark.parametrize('size', [1, 2, 7])
def test_bias_of_windows_is_that_of_their_grid(size):
    table = inputs(1, 3, size, size, 4)[3]
    bias = window_position_bias(table, size)
    expected = relative_position_bias(table, size, size)
    assert torch.equal(bias, expected)
    for found, wanted in zip(
            gradients(bias, [table]), gradients(expected, [table])):
        torch.testing.assert_close(found, wanted)
