"""Operators of ``mmcv._ext`` that mmhier computes with torchvision and torch.

Each has the name, the arguments and the convention of the compiled function
in mmcv (``mmcv/ops/csrc/pytorch``): results go into buffers that mmcv's
Python code allocates, and autograd sees none of it. In half precision all
of them compute in float32. Their modules are imported by the first call.
"""
import functools
import multiprocessing
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from typing import Any, NoReturn

from .source import describe_operators, indented_compile_commands

OPERATORS = {
    name: module
    for module, names in {
        'attention': ('ms_deform_attn_forward', 'ms_deform_attn_backward',
                      'psamask_forward', 'psamask_backward'),
        'carafe': ('carafe_forward', 'carafe_backward', 'carafe_naive_forward',
                   'carafe_naive_backward'),
        'deform_conv': ('deform_conv_forward', 'deform_conv_backward_input',
                        'deform_conv_backward_parameters',
                        'modulated_deform_conv_forward',
                        'modulated_deform_conv_backward'),
        'focal_loss': ('sigmoid_focal_loss_forward',
                       'sigmoid_focal_loss_backward',
                       'softmax_focal_loss_forward',
                       'softmax_focal_loss_backward'),
        'masked_conv': ('masked_im2col_forward', 'masked_col2im_forward'),
        'nms': ('nms', 'softnms', 'nms_match', 'line_nms_forward'),
        'roi_align': ('roi_align_forward', 'roi_align_backward'),
        'roi_pool': ('roi_pool_forward', 'roi_pool_backward'),
        'roi_sampling': ('border_align_forward', 'border_align_backward',
                         'deform_roi_pool_forward', 'deform_roi_pool_backward',
                         'roi_align_rotated_forward',
                         'roi_align_rotated_backward'),
        'rotated_boxes': ('box_iou_rotated', 'nms_rotated'),
        'sync_bn': ('sync_bn_forward_mean', 'sync_bn_forward_var',
                    'sync_bn_forward_output', 'sync_bn_backward_param',
                    'sync_bn_backward_data'),
    }.items()
    for name in names
}
"""dict[str, str]: The module of ``mmhier.ops`` that holds each operator."""


def make_operator(name: str) -> Callable:
    """Make the function that computes one of :data:`OPERATORS`.

    Args:
        name (str): Name of the operator, e.g. ``'deform_conv_forward'``.

    Returns:
        Callable: Logs the source of the operators at its first call, and
        hides the computation from autograd.
    """

    def operator(*args: Any, **kwargs: Any) -> Any:
        import torch
        module = import_module(f'.{OPERATORS[name]}', __package__)
        _log_operators_once()
        with torch.no_grad():
            return getattr(module, name)(*args, **kwargs)

    operator.__name__ = operator.__qualname__ = name
    return operator


def make_unsupported_operator(name: str) -> Callable:
    """Make the function that stands for an operator without counterpart.

    Args:
        name (str): Name of the operator, e.g. ``'correlation_forward'``.

    Returns:
        Callable: Raises NotImplementedError with ``name`` and the commands
        that compile mmcv, whatever its arguments.
    """

    def raise_unsupported(*args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(
            f'{name} needs compiled mmcv: this mmcv has no compiled '
            'operators, and mmhier.ops does not replace this one '
            '(docs/install.md lists those it replaces). To compile mmcv (10 '
            'to 30 minutes; needs a C++ compiler, for CUDA tensors also nvcc '
            'of the CUDA version of torch, and FORCE_CUDA=1 in the '
            'environment where no GPU is visible):\n' +
            indented_compile_commands())

    return raise_unsupported


def get_compiler_version() -> str:
    """Report that there was no compiler, for mmcv's environment report."""
    return f'none: operators from torchvision {version("torchvision")}'


@functools.cache
def _log_operators_once() -> None:
    from mmengine.dist import is_main_process
    from mmengine.logging import print_log
    if multiprocessing.parent_process() is None and is_main_process():
        print_log(describe_operators(), logger='current')
