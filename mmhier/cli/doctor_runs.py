"""Short runs of `mmhier doctor`; each returns a Finding or raises."""
import os
import re
import shutil
import subprocess

import numpy as np
import torch
import torch.distributed as dist
from mmcv.ops import nms, roi_align
from mmengine.model import BaseModel
from torch.nn.parallel import DistributedDataParallel
from mmhier.checkpoints import read_checkpoint
from mmhier.engine.runner import Runner
from mmhier.models import HATNet
from mmhier.ops import describe_operators, operator_source
from mmhier.ops.shim import find_mmcv_folder, is_shim
from .doctor import PYTHON, TORCH, Finding, install_command, reinstall

# Builds of torch and the CUDA version that a driver must support for them.
BUILDS = {'cu126': (12, 0), 'cu128': (12, 8), 'cu130': (13, 0)}


def operators() -> Finding:
    """NMS and RoIAlign of mmcv with known answers, and their source."""
    boxes = torch.from_numpy(
        np.array([[0., 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30]],
                 np.float32))
    _, kept = nms(boxes, torch.tensor([0.9, 0.8, 0.7]), iou_threshold=0.5)
    assert kept.tolist() == [0, 2], f'nms keeps {kept.tolist()}, not [0, 2]'
    # On a ramp, the mean over a box is the value at its centre.
    ramp = torch.arange(16.).expand(1, 1, 16, 16).contiguous()
    ramp.requires_grad_()
    pooled = roi_align(ramp, torch.tensor([[0., 2, 2, 6, 6]]), 1, 1.0, 2)
    pooled.sum().backward()
    value, total = pooled.item(), ramp.grad.sum().item()
    assert abs(value - 3.5) < 1e-5, f'roi_align gives {value}, not 3.5'
    assert abs(total - 1) < 1e-5, f'gradients of roi_align sum to {total}'
    source, detail = operator_source(), describe_operators()
    if source in ('missing', 'broken'):
        return Finding('operators', 'FAIL', detail, reinstall('mmcv'))
    folder = find_mmcv_folder()
    if source == 'torchvision' and not (folder and is_shim(folder / '_ext.py')):
        return Finding(
            'operators', 'note',
            f'{detail}; programs that import mmdet before mmhier have none',
            f'{PYTHON} -m mmhier.ops install')
    return Finding('operators', 'ok', detail)


def gpu() -> Finding:
    """A matrix product on every GPU; an unused driver is a fault."""
    if torch.cuda.is_available():
        names = []
        for i in range(torch.cuda.device_count()):
            names.append(torch.cuda.get_device_name(i))
            ones = torch.ones(8, 8, device=f'cuda:{i}')
            total = (ones @ ones).sum().item()
            assert total == 512, f'{names[i]} computes {total}, not 512'
        return Finding('gpu', 'ok', ', '.join(names))
    if not shutil.which('nvidia-smi') or os.environ.get(
            'CUDA_VISIBLE_DEVICES') in ('', '-1'):
        return Finding('gpu', 'ok', 'none: runs on the CPU')
    answer = subprocess.run(['nvidia-smi'], capture_output=True, text=True)
    driver = re.search(r'CUDA Version: (\d+)\.(\d+)', answer.stdout)
    if driver is None:
        return Finding(
            'gpu', 'FAIL', 'nvidia-smi does not reach the driver: install it '
            'again, or restart the machine')
    supported = int(driver[1]), int(driver[2])
    builds = [name for name, cuda in BUILDS.items() if cuda <= supported]
    detail = (f'the driver supports CUDA {driver[1]}.{driver[2]}, torch '
              f'{torch.__version__} (CUDA {torch.version.cuda}) finds no GPU')
    if torch.version.cuda and int(
            torch.version.cuda.split('.')[0]) <= supported[0]:
        return Finding(
            'gpu', 'FAIL', f'{detail}: see nvidia-smi; a container needs '
            '--gpus all')
    return Finding('gpu', 'FAIL' if builds else 'note', detail,
                   install_command(TORCH, builds[-1]) if builds else '')


def training_step() -> Finding:
    """A backbone, forward and backward."""
    model = HATNet(arch='tiny').train()
    sum(m.square().mean() for m in model(torch.randn(2, 3, 64, 64))).backward()
    dead = [
        name for name, p in model.named_parameters()
        if p.grad is None or not p.grad.isfinite().all()
    ]
    assert not dead, f'{len(dead)} parameters without gradient: {dead[:3]}'
    return Finding('training step', 'ok', 'HATNet tiny, forward and backward')


class Line(BaseModel):
    """One weight that is fitted to 2."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self,
                inputs: torch.Tensor,
                mode: str = 'tensor') -> dict[str, torch.Tensor]:
        """The loss, whatever the mode."""
        return dict(loss=(self.weight * inputs - 2).square().mean())


def train_line(max_iters: int, resume: bool) -> Runner:
    """Train in ./resume and save every second iteration."""
    runner = Runner(
        Line(),
        work_dir='resume',
        resume=resume,
        log_level='ERROR',
        experiment_name=f'doctor-{max_iters}',
        train_dataloader=dict(
            dataset=[dict(inputs=torch.ones(1))] * 8,
            batch_size=2,
            collate_fn=dict(type='default_collate'),
            sampler=dict(type='InfiniteSampler')),
        train_cfg=dict(by_epoch=False, max_iters=max_iters),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.1)),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2)))
    runner.train()
    return runner


def save_and_resume() -> Finding:
    """Two iterations, saved, and two more after reading the file safely."""
    train_line(2, resume=False)
    saved = read_checkpoint('resume/iter_2.pth')
    runner = train_line(4, resume=True)
    iters = saved['meta']['iter'], runner.iter
    assert iters == (2, 4), f'saved and resumed iterations are {iters}'
    moved = (runner.model.weight - saved['state_dict']['weight']).item()
    assert 0 < moved < 0.5, f'the weight moved by {moved} after resuming'
    return Finding('save and resume', 'ok', 'saved after 2 iterations of 4')


def average_gradients(rank: int) -> None:
    """One of two processes; the mean gradient of inputs 1 and 3 is 2."""
    dist.init_process_group(
        'gloo',
        init_method=f'file://{os.getcwd()}/gloo',
        rank=rank,
        world_size=2)
    linear = DistributedDataParallel(torch.nn.Linear(1, 1))
    linear(torch.full((1, 1), 1. + 2 * rank)).sum().backward()
    gradient = linear.module.weight.grad.item()
    dist.destroy_process_group()
    assert gradient == 2, f'gradient {gradient}, not the mean of 1 and 3'


def two_processes() -> Finding:
    """DistributedDataParallel of two processes."""
    try:
        torch.multiprocessing.spawn(average_gradients, nprocs=2)
    except torch.multiprocessing.ProcessRaisedException as error:
        kind, _, text = str(error).strip().splitlines()[-1].partition(': ')
        if kind == 'AssertionError':
            raise AssertionError(text) from error
        raise RuntimeError(
            f'{text or kind}. If they cannot reach each other, try again with '
            'GLOO_SOCKET_IFNAME=lo in the environment') from error
    return Finding('two processes', 'ok', 'DDP over gloo')
