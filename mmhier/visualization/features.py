"""Feature maps as pictures: their mean and their main directions."""
import torch
from torch import Tensor


def mean_map(features: Tensor) -> Tensor:
    """Mean magnitude over the channels.

    Args:
        features (Tensor): (C, H, W).

    Returns:
        Tensor: (H, W), scaled to 0..1, all 0 if it is the same everywhere.
    """
    values = features.float().abs().mean(0)
    return _scale(values)


def pca_map(features: Tensor) -> Tensor:
    """First three principal components over the pixels, as colours.

    Pixels of similar features get similar colours. Signs are fixed (the
    largest loading is positive), so that the same features give the same
    picture.

    Args:
        features (Tensor): (C, H, W), C at least 3.

    Returns:
        Tensor: (H, W, 3), each component scaled to 0..1 between its 1st and
        99th percentile.
    """
    pixels = features.double().flatten(1).t()
    pixels = pixels - pixels.mean(0)
    # C is small compared with the number of pixels.
    directions = torch.linalg.eigh(pixels.t() @ pixels)[1].flip(1)[:, :3]
    largest = directions.abs().argmax(0)
    directions = directions * directions.gather(0, largest[None]).sign()
    components = (pixels @ directions).float()
    low, high = (components.quantile(q, dim=0) for q in (0.01, 0.99))
    scaled = (components - low) / (high - low).clamp(min=1e-12)
    return scaled.clamp(0, 1).view(*features.shape[1:], 3)


def _scale(values: Tensor) -> Tensor:
    low, high = values.min(), values.max()
    return (values - low) / (high - low).clamp(min=1e-12)
