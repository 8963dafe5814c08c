"""Parameters and multiply-adds, fused attention and deformable conv included.
"""
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

aten = torch.ops.aten


@dataclass
class Complexity:
    """Cost of one forward pass.

    Attributes:
        params (int): Number of parameters.
        macs (int): Multiply-adds of convolutions, linear layers and matrix
            products; norms, activations and softmax are not counted.
        attention_macs (int): Those of them that fused attention and products
            of activations take.
        macs_by_module (dict[str, int]): The same as `macs` for each module by
            name.
        params_by_module (dict[str, int]): Parameters of each module by name,
            those of its children included.
    """
    params: int
    macs: int
    attention_macs: int
    macs_by_module: dict[str, int]
    params_by_module: dict[str, int]


def _attention_flops(query: Sequence[int], key: Sequence[int],
                     value: Sequence[int], *args: Any, **kwargs: Any) -> int:
    *batch, num_queries, head_dim = query
    num_keys, value_dim = value[-2:]
    return 2 * prod(batch) * num_queries * num_keys * (head_dim + value_dim)


def _deform_conv_flops(x: Sequence[int], weight: Sequence[int], *args: Any,
                       out_shape: Sequence[int], **kwargs: Any) -> int:
    return 2 * prod(out_shape) * prod(weight[1:])


def _flop_formulas() -> dict:
    """Formulas for operators that torch's counter does not know."""
    formulas: dict[Any, Callable] = {
        aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops
    }
    if hasattr(torch.ops.torchvision, 'deform_conv2d'):
        formulas[torch.ops.torchvision.deform_conv2d] = _deform_conv_flops
    return formulas


def count_complexity(model: nn.Module,
                     input_shape: tuple[int, ...] = (1, 3, 224, 224),
                     forward: Callable | None = None) -> Complexity:
    """Count parameters and multiply-adds of one inference pass.

    Args:
        model (nn.Module): What to count, on any device; left in the mode it
            was in.
        input_shape (tuple[int]): (B, 3, H, W) in pixels. Defaults to
            (1, 3, 224, 224).
        forward (Callable, optional): Called with the images instead of the
            model. Defaults to None.

    Returns:
        Complexity: Of the whole input batch.
    """
    parameter = next(model.parameters())
    images = torch.zeros(
        input_shape, dtype=parameter.dtype, device=parameter.device)
    counter = FlopCounterMode(display=False, custom_mapping=_flop_formulas())
    training = model.training
    model.eval()
    try:
        # The counter's hooks keep layers from working in tiles, which would
        # count the rows that they share twice.
        with torch.no_grad(), counter:
            (forward or model)(images)
    finally:
        model.train(training)
    counts = counter.get_flop_counts()
    by_module = {
        name.partition('.')[2]: sum(flops.values()) // 2
        for name, flops in counts.items() if '.' in name
    }
    attention = sum(
        flops for operator, flops in counts['Global'].items()
        if 'attention' in str(operator) or operator in (aten.bmm, aten.baddbmm))
    return Complexity(
        params=sum(p.numel() for p in model.parameters()),
        macs=counter.get_total_flops() // 2,
        attention_macs=attention // 2,
        macs_by_module=by_module,
        params_by_module={
            name: sum(p.numel() for p in module.parameters())
            for name, module in model.named_modules() if name
        })
