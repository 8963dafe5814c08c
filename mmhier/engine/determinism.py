"""Operators without a deterministic form on CUDA, by the modules that run them.

torch raises at the first of them after
``torch.use_deterministic_algorithms(True)``, in the backward pass as a rule;
mmcv's own kernels are not deterministic and do not raise.
"""
from collections.abc import Callable

import torch
from torch import nn
from mmhier.errors import MMHierError
from mmhier.ops import operator_source


def _is_compiled(module: nn.Module) -> bool:
    return operator_source() == 'compiled'


def _pools_cells(module: nn.Module) -> bool:
    return module.output_size not in (1, (1, 1))


def _softmax_on_maps(module: nn.Module) -> bool:
    of_maps = type(module).__module__.startswith('mmseg.')
    return of_maps and not getattr(module, 'use_sigmoid', False)


# Name of a class, or of a base of it -> operator, and whether a module of the
# class runs it, by default always. From the list in
# torch.use_deterministic_algorithms (2.11) and torchvision's kernels.
OPERATORS: dict[str, tuple[str, Callable[[nn.Module], bool] | None]] = {
    'RoIAlign': ("mmcv's roi_align backward", _is_compiled),
    'RoIPool': ('roi_pool backward', None),
    'DeformConv': ('deform_conv2d backward', None),
    'DeformConv2d': ('deform_conv2d backward', None),
    'ModulatedDeformConv2d': ('deform_conv2d backward', None),
    'AdaptiveAvgPool2d': ('adaptive_avg_pool2d backward', _pools_cells),
    'AdaptiveMaxPool2d': ('adaptive_max_pool2d backward', None),
    'CrossEntropyLoss': ('nll_loss2d', _softmax_on_maps),
    'FusedSemanticHead': ('nll_loss2d', None),
    'MultiScaleDeformableAttention': ('grid_sampler_2d backward', None),
    'MaskFormerHead': ('grid_sampler_2d backward', None),
    'MaskPointHead': ('grid_sampler_2d backward', None),
    'SinePositionalEncoding': ('cumsum', None),
}


def nondeterministic_modules(model: nn.Module) -> dict[str, list[str]]:
    """Modules that cannot be trained deterministically on CUDA.

    Args:
        model (nn.Module): Any model.

    Returns:
        dict[str, list[str]]: Names of modules by the operator.
    """
    found: dict[str, list[str]] = {}
    for name, module in model.named_modules():
        for base in type(module).__mro__:
            operator, runs = OPERATORS.get(base.__name__, (None, None))
            if operator is not None and (runs is None or runs(module)):
                found.setdefault(operator, []).append(name)
                break
    return found


def check_deterministic(model: nn.Module, device: str) -> None:
    """Refuse a model that has no deterministic form on the device.

    Args:
        model (nn.Module): Model to be trained.
        device (str): 'cpu' and 'cuda' without index, as mmengine names them.

    Raises:
        MMHierError: If deterministic kernels were asked for, on CUDA, and the
            model has operators without one.
    """
    is_strict = (
        torch.are_deterministic_algorithms_enabled()
        and not torch.is_deterministic_algorithms_warn_only_enabled())
    if device != 'cuda' or not is_strict:
        return
    found = nondeterministic_modules(model)
    if found:
        operators = '; '.join(f'{operator} ({modules[0]})'
                              for operator, modules in found.items())
        raise MMHierError(
            'no deterministic form on CUDA: '
            f'{operators}. Train without --deterministic (randomness.'
            'deterministic), on a CPU, or with parts that docs/training.md '
            'lists as deterministic')
