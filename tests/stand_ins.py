"""Files of a few kilobytes in place of the official classifiers."""
from pathlib import Path

import torch
from mmhier.checkpoints import official_weights
from mmhier.checkpoints.proving import expected_shapes


def write_stand_ins(folder: Path) -> None:
    """Write a file for each name that a config starts from.

    Names and shapes are those of the models; a tensor's values share one
    number.
    """
    for weights in official_weights().values():
        if weights.name.endswith('_in1k') and not weights.backbone:
            shapes, new = expected_shapes(weights)
            state_dict = {
                name: torch.zeros(()).expand(shape)
                for name, shape in shapes.items() if name not in new
            }
            torch.save(state_dict, folder / f'{weights.name}.pth')
