"""The norm and activation for GPUs equal the two modules."""
from copy import deepcopy

import pytest
import torch
from torch import nn
from mmhier.models.layers.cuda.recomputed_norm import normalize_and_activate


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
