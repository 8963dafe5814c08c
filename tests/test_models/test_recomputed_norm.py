"""The norm and activation for GPUs equal the two modules."""
from copy import deepcopy

import pytest
import torch
from torch import nn
from mmhier.models.layers import BranchGate
from mmhier.models.layers.cuda.recomputed_norm import (
    normalize_and_activate,
    origin,
)


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('statistics', [True, False])
@pytest.mark.parametrize('trained', [(True, True, True), (False, True, True),
                                     (True, False, False)])
def test_outputs_gradients_and_statistics(training, statistics, trained):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(6, 1e-3, track_running_stats=statistics)
    norm.double().train(training)
    for t in norm.state_dict().values():
        t.add_(torch.rand(t.shape).to(t))
    norm.weight.requires_grad_(trained[1])
    norm.bias.requires_grad_(trained[2])
    x = torch.randn(2, 6, 5, 7).double().requires_grad_(trained[0])
    grad = torch.randn_like(x)
    results = []
    for form in ('modules', 'function'):
        own = deepcopy(norm)
        activation = nn.GELU()
        out = (
            activation(own(x)) if form == 'modules' else normalize_and_activate(
                x, own, activation))
        wanted = [t for t in (x, own.weight, own.bias) if t.requires_grad]
        grads = torch.autograd.grad(out, wanted, grad)
        results.append([out, *grads, *own.state_dict().values()])
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('training', [True, False])
def test_gates_store_no_map_that_can_be_computed_again(training):
    torch.manual_seed(0)
    norms = [nn.BatchNorm2d(6).double().train(training) for _ in range(2)]
    gate = BranchGate(6, 2, 'auto').double()
    weights = [*gate.parameters(), *norms[0].parameters()]
    x = torch.randn(2, 6, 5, 7).double()
    results, stored = [], []

    def pack(t):
        stored.append((t if t._base is None else t._base).data_ptr())
        return t

    for form in ('modules', 'function'):
        leaf = x.clone().requires_grad_()
        maps = [
            nn.GELU()(norm(leaf)) if form == 'modules' else
            normalize_and_activate(leaf, norm, nn.GELU()) for norm in norms
        ]
        maps.append(maps[0] * 2)
        maps = maps[1:]
        views = [y.permute(0, 2, 3, 1) for y in maps]
        assert (origin(views[0]) is None) == (form == 'modules')
        assert origin(views[1]) is None
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            out = gate(leaf.permute(0, 2, 3, 1), views)
        assert (maps[0].data_ptr() in stored) == (form == 'modules')
        assert maps[1].data_ptr() in stored
        stored.clear()
        results.append(
            [out, *torch.autograd.grad(out.square().sum(), [leaf, *weights])])
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)
