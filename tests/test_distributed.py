"""Two processes do what one does with the doubled batch."""
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp.wrap import size_based_auto_wrap_policy
from torch.nn.parallel import DistributedDataParallel

pytestmark = pytest.mark.slow

# BatchNorm takes its statistics from the batch of a process, so it is frozen.
BACKBONES = {
    'HATNet': dict(arch='tiny'),
    'LIT': dict(arch='tiny', norm_eval=True),
    'HVT': dict(arch='ti-1', drop_path_rate=0., norm_eval=True),
    'ACCViT': dict(arch='femto', norm_eval=True),
}
NUM_PROCESSES = 2


def build(name: str) -> nn.Module:
    """A backbone in float64, the same in every process."""
    from mmhier import models
    torch.manual_seed(0)
    return getattr(models, name)(**BACKBONES[name]).double().train()


def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(
        2 * NUM_PROCESSES, 3, 64, 96, generator=generator, dtype=torch.double)


def loss_of(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    return sum(m.square().mean() for m in model(batch))


def run_process(rank: int, folder: str, work) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo',
        init_method=f'file://{folder}/store',
        rank=rank,
        world_size=NUM_PROCESSES)
    result = work(images()[rank::NUM_PROCESSES])
    if rank == 0:
        torch.save(result, f'{folder}/result.pt')
    dist.destroy_process_group()


def run_processes(folder: Path, work) -> dict:
    """What the first of two processes returns."""
    torch.multiprocessing.spawn(
        run_process, (str(folder), work), nprocs=NUM_PROCESSES)
    return torch.load(folder / 'result.pt')


def distributed_gradients(batch: torch.Tensor) -> dict:
    gradients = {}
    for name in BACKBONES:
        model = DistributedDataParallel(
            build(name), find_unused_parameters=False)
        loss_of(model, batch).backward()
        gradients[name] = {
            n: p.grad
            for n, p in model.module.named_parameters()
        }
    return gradients


def sharded_step(batch: torch.Tensor) -> dict:
    model = FullyShardedDataParallel(
        build('HATNet'),
        device_id=torch.device('cpu'),
        use_orig_params=True,
        auto_wrap_policy=partial(
            size_based_auto_wrap_policy, min_num_params=1_000_000))
    assert sum(
        isinstance(m, FullyShardedDataParallel) for m in model.modules()) > 1
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss_of(model, batch).backward()
    optimizer.step()
    with FullyShardedDataParallel.summon_full_params(model):
        return {
            n.replace('_fsdp_wrapped_module.', ''): p.detach().clone()
            for n, p in model.named_parameters()
        }


def test_gradients_are_those_of_one_process(tmp_path):
    together = run_processes(tmp_path, distributed_gradients)
    for name in BACKBONES:
        model = build(name)
        loss_of(model, images()).backward()
        for key, parameter in model.named_parameters():
            torch.testing.assert_close(
                together[name][key],
                parameter.grad,
                rtol=1e-9,
                atol=1e-12,
                msg=lambda text, key=key: f'{name}.{key}: {text}')


def test_sharded_step_is_that_of_one_process(tmp_path):
    together = run_processes(tmp_path, sharded_step)
    model = build('HATNet')
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss_of(model, images()).backward()
    optimizer.step()
    own = dict(model.named_parameters())
    assert together.keys() == own.keys()
    for key, parameter in own.items():
        torch.testing.assert_close(
            together[key], parameter.detach(), rtol=1e-9, atol=1e-12)
