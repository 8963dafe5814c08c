"""Weights of a block that are cast in one call under autocast."""
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from mmhier.models import HATNet
from mmhier.models.layers import BranchGate, DepthwiseConv, Linear
from mmhier.models.layers.cuda.casts import call_with_casts


class Block(nn.Module):

    def __init__(self):
        super().__init__()
        self.conv = DepthwiseConv(8, 3)
        self.norm = nn.LayerNorm(8)
        self.gate = BranchGate(8, 2, 'eager')
        self.observed = nn.Linear(8, 8)
        self.observed.register_forward_hook(lambda *args: None)
        self.fc1, self.unused = Linear(8, 8), Linear(8, 8)

    def forward(self, x):
        x = self.norm(self.conv(x))
        return self.fc1(self.gate(x, [x, self.observed(x)]))


class Casts(TorchDispatchMode):
    """Operators that copy from float32, by name."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func._overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def block():
    torch.manual_seed(0)
    return Block()


def test_outputs_and_gradients_are_those_of_autocast(block):
    x = torch.randn(2, 4, 5, 8)
    results, names = [], []
    for call in (lambda block, dtype, x: block(x), call_with_casts):
        own = deepcopy(block)
        own.conv.requires_grad_(False)
        leaf = x.clone().requires_grad_()
        with Casts() as mode, torch.autocast('cpu', torch.bfloat16):
            out = call(own, torch.bfloat16, leaf)
        out.float().square().sum().backward()
        results.append([out, leaf.grad, *(p.grad for p in own.parameters())])
        names.append(mode.names)
    for expected, found in zip(*results):
        assert (expected is None) == (found is None)
        assert expected is None or torch.equal(expected, found)
    assert names[1].count('_foreach_copy_') == 1
    # The weight of `conv`, weight and bias of `fc1`.
    assert names[0].count('_to_copy') - names[1].count('_to_copy') == 3


def test_weights_are_put_back_after_an_error(block):
    before = dict(block.named_parameters())
    with pytest.raises(RuntimeError):
        call_with_casts(block, torch.bfloat16, torch.randn(2, 4, 5, 7))
    assert all(p is before[k] for k, p in block.named_parameters())


def test_shared_and_wrapped_weights_are_left_alone(block):
    """autocast casts a shared weight once; FSDP's are shards."""
    shared = deepcopy(block)
    shared.unused.weight = shared.fc1.weight
    wrapped = nn.Sequential(deepcopy(block))
    wrapped._modules['_fsdp_wrapped_module'] = nn.Identity()
    x = torch.randn(1, 2, 2, 8)
    for module in (shared, wrapped):
        with Casts() as mode, torch.autocast('cpu', torch.bfloat16):
            call_with_casts(module, torch.bfloat16, x)
        assert '_foreach_copy_' not in mode.names


def test_no_module_sees_casts_on_a_cpu():
    dtypes = set()
    model = HATNet('tiny').eval()
    linear = model.blocks[0][0].attn.qkv
    linear.register_forward_hook(lambda m, *args: dtypes.add(m.weight.dtype))
    with torch.autocast('cpu', torch.bfloat16), torch.no_grad():
        model(torch.randn(1, 3, 32, 32))
    assert dtypes == {torch.float32}
