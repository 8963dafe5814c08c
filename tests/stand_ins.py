"""Files of a few kilobytes in place of the official ones."""
from pathlib import Path

import torch
from mmhier.checkpoints import OfficialWeights, official_weights
from mmhier.checkpoints.proving import expected_shapes


def stand_in(weights: OfficialWeights) -> dict[str, torch.Tensor]:
    """Weights with the names and shapes of a model; a tensor's values share
    one number."""
    shapes, new = expected_shapes(weights)
    return {
        name: torch.zeros(()).expand(shape)
        for name, shape in shapes.items() if name not in new
    }


def write_stand_ins(folder: Path) -> None:
    """Write a file for each name that a config starts from."""
    for weights in official_weights().values():
        if weights.name.endswith('_in1k') and not weights.backbone:
            torch.save(stand_in(weights), folder / f'{weights.name}.pth')
