import pytest
import torch
import torch.distributed as dist
from mmcv.ops import SyncBatchNorm
from torch import nn

pytestmark = pytest.mark.usefixtures('ext')


@pytest.fixture
def one_process(tmp_path):
    dist.init_process_group(
        'gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize('stats_mode', ['default', 'N'])
@pytest.mark.parametrize('shape', [(4, 3, 5, 6), (1, 3, 2, 2), (6, 3)])
def test_sync_bn_of_one_process_is_batch_norm(one_process, shape, stats_mode):
    torch.manual_seed(0)
    layer = SyncBatchNorm(3, momentum=.3, stats_mode=stats_mode)
    plain = (nn.BatchNorm2d if len(shape) > 2 else nn.BatchNorm1d)(
        3, momentum=.3)
    plain.load_state_dict(layer.state_dict())
    if len(shape) == 2:
        shape = (*shape, 1)
        plain = nn.Sequential(nn.Flatten(), plain, nn.Unflatten(1, (3, 1)))
    upstream = torch.rand(shape)
    results = []
    for norm in (layer, plain):
        x = 5 * torch.rand(2, *shape, generator=torch.manual_seed(1)) + 2
        x.requires_grad_()
        norm(x[0])
        output = norm(x[1])
        output.backward(upstream)
        results.append([
            output, x.grad, *[p.grad for p in norm.parameters()],
            *norm.buffers()
        ])
    for ours, expected in zip(*results, strict=True):
        assert torch.allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_sync_bn_in_half_precision(one_process):
    layer = SyncBatchNorm(3)
    x = torch.rand(2, 3, 4, 4)
    half = x.half().requires_grad_()
    output = layer(half)
    assert output.dtype == torch.float16
    assert torch.allclose(output.float(), layer(x), atol=.02)
    output.float().sum().backward()
    assert half.grad.dtype == torch.float16


def test_sync_bn_of_an_empty_batch_keeps_the_averages(one_process):
    layer = SyncBatchNorm(3, stats_mode='N')
    x = torch.zeros(0, 3, 4, 4, requires_grad=True)
    layer(x).sum().backward()
    assert layer.running_mean.eq(0).all() and layer.running_var.eq(1).all()
    assert layer.weight.grad.eq(0).all()
