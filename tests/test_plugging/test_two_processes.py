"""Stock ATSS, whose neck skips the first map, in two processes."""
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from mmengine.model import MMDistributedDataParallel
from .plugging import generated_batch, read_stock_config, use_backbone

pytestmark = pytest.mark.slow

BACKBONES = [
    dict(type='mmhier.HATNet', arch='tiny'),
    dict(type='mmhier.LIT', arch='small', out_norms=(0, 1, 2, 3)),
    dict(type='mmhier.LITv2', arch='small', out_norms=(0, 1, 2, 3)),
    dict(type='mmhier.HVT', arch='ti-1'),
    dict(type='mmhier.ACCViT', arch='femto'),
]
NUM_PROCESSES = 2


def train(rank: int, folder: str) -> None:
    """Two steps of each model; DistributedDataParallel raises in the second
    if a parameter has no gradient in the first."""
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo',
        init_method=f'file://{folder}/store',
        rank=rank,
        world_size=NUM_PROCESSES)
    sums = []
    for backbone in BACKBONES:
        torch.manual_seed(rank)
        cfg = read_stock_config('mmdet/atss/atss_r50_fpn_1x_coco')
        model, _ = use_backbone(cfg, backbone)
        model = MMDistributedDataParallel(model.train(), device_ids=None)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
        for _ in range(2):
            data = model.module.data_preprocessor(
                generated_batch(cfg, model.module), True)
            losses = model(**data, mode='loss')
            optimizer.zero_grad()
            model.module.parse_losses(losses)[0].backward()
            optimizer.step()
        sums.append([p.double().sum().item() for p in model.parameters()])
    torch.save(sums, f'{folder}/{rank}.pt')
    dist.destroy_process_group()


def test_stock_detector_that_ignores_a_map(tmp_path: Path):
    torch.multiprocessing.spawn(train, (str(tmp_path), ), NUM_PROCESSES)
    first, second = (torch.load(tmp_path / f'{i}.pt') for i in range(2))
    assert len(first) == len(BACKBONES) and first == second
