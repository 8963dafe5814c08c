"""What the benchmarks compare with gives the same numbers as the models."""
import pytest
import torch
from mmhier.analysis.plain_forms import PLAIN_FORMS
from mmhier.models import HVT, LIT, ACCViT, HATNet, LITv2

CASES = [
    (HATNet, 'tiny', {}, (224, 448)),
    (LIT, 'tiny', {}, (96, 64)),
    (LIT, 'small', {}, (96, 128)),
    (LITv2, 'small', dict(window_size=4), (96, 160)),
    (HVT, 's-1', dict(drop_path_rate=0.), (80, 112)),
    (ACCViT, 'femto', {}, (96, 64)),
]


@pytest.mark.parametrize('cls, arch, arguments, size', CASES)
def test_plain_form_equals_the_model(cls, arch, arguments, size):
    torch.manual_seed(0)
    model = cls(arch, **arguments)
    model.init_weights()
    x = torch.randn(2, 3, *size)
    for training in (False, True):
        model.train(training)
        with torch.set_grad_enabled(training):
            plain, outs = PLAIN_FORMS[cls](model, x), model(x)
            for a, b in zip(plain, outs):
                assert (a - b).abs().max() <= 1e-4 * a.std()
    grads = []
    for maps in (plain, outs):
        model.zero_grad()
        sum(out.mean() for out in maps).backward()
        grads.append({
            name: parameter.grad.clone()
            for name, parameter in model.named_parameters()
        })
    for name, grad in grads[0].items():
        torch.testing.assert_close(
            grads[1][name],
            grad,
            rtol=1e-2,
            atol=1e-4,
            msg=lambda text, name=name: f'{name}: {text}')
