"""Golden outputs of the authors' code, and the weights they were made with.

`tests/data/golden/VARIANT.json` lists the official names and shapes and the
runs, `VARIANT.npz` holds 2048 evenly spaced values per output.
"""
import json
import zlib
from pathlib import Path

import numpy as np
import torch

GOLDEN = Path(__file__).parent / 'data' / 'golden'


def fill(name: str, shape: tuple) -> np.ndarray:
    """Value of the parameter or buffer `name`, a function of it alone.

    Rank >= 2: N(0, 1 / fan_in), offset convolutions and position tables
    smaller; norm scales 1 + 0.1 N; variances 1 + 0.1 |N|; the rest 0.1 N.
    """
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    if name.endswith('num_batches_tracked'):
        return np.zeros(shape, np.int64)
    value = rng.standard_normal(shape).astype(np.float32)
    if name.endswith('running_var'):
        return (1 + 0.1 * np.abs(value)).astype(np.float32)
    if 'conv_offset' in name:
        fan_in = max(1, np.prod(shape[1:]))
        return ((0.5 / np.sqrt(fan_in)) * value).astype(np.float32)
    if 'pos_embed' in name or 'relative_position_bias_table' in name:
        return (0.2 * value).astype(np.float32)
    if len(shape) >= 2:
        return (value / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
    if name.endswith('weight'):
        return (1 + 0.1 * value).astype(np.float32)
    return (0.1 * value).astype(np.float32)


def image(batch: int, height: int, width: int) -> torch.Tensor:
    """Input (batch, 3, height, width) of the golden runs."""
    rng = np.random.Generator(np.random.PCG64(10_000))
    return torch.from_numpy(
        rng.standard_normal((batch, 3, height, width)).astype(np.float32))


def official_state_dict(variant: str) -> dict:
    """The weights of a golden variant under the authors' names."""
    names = json.loads((GOLDEN / f'{variant}.json').read_text())['state_dict']
    return {
        name: torch.from_numpy(np.asarray(fill(name, tuple(shape))))
        for name, shape in names.items()
    }


def runs(variant: str) -> list:
    """Runs of a golden variant: tag, input size, standard deviations."""
    return json.loads((GOLDEN / f'{variant}.json').read_text())['runs']


def largest_difference(variant: str, run: dict, outputs) -> float:
    """Largest |difference| over all outputs, in units of their golden std."""
    golden = np.load(GOLDEN / f'{variant}.npz')
    worst = 0.
    for i, output in enumerate(outputs):
        assert list(output.shape) == run['output_shapes'][i]
        flat = output.detach().float().reshape(-1).numpy()
        wanted = golden[f'{run["tag"]}/{i}']
        index = np.linspace(0, flat.size - 1, min(2048, flat.size))
        found = flat[index.astype(np.int64)]
        worst = max(worst, np.abs(found - wanted).max() / run['std'][i])
    return worst
