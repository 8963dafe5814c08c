"""Let torch run CUDA code paths on FakeTensors, without a driver.

Dispatch, autocast, autograd and the rules for dtypes and devices are torch's
own; no kernel runs. Importing this module changes torch for the rest of the
process, which must have runtime.cpp preloaded.
"""
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses import fake_tensor
from torch.cuda.amp import common
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

aten = torch.ops.aten
# An H100's.
PROPERTIES = SimpleNamespace(
    name='simulated', major=9, minor=0, multi_processor_count=132)

_real_tensor = torch.tensor


def default_device() -> str:
    for mode in reversed(_get_current_function_mode_stack()):
        if isinstance(mode, DeviceContext):
            return mode.device
    return 'cpu'


def make_tensor(data, *, dtype=None, device=None, requires_grad=False):
    """torch.tensor, which would copy to the device."""
    device = torch.device(device or default_device())
    with torch.device('cpu'):
        value = _real_tensor(data, dtype=dtype)
    if device.type == 'cuda':
        value = torch.empty(value.shape, dtype=value.dtype, device='cuda')
    return value.requires_grad_(requires_grad)


def new_tensor(self, data, *, dtype=None, device=None, requires_grad=False):
    return make_tensor(
        data,
        dtype=dtype or self.dtype,
        device=device or self.device,
        requires_grad=requires_grad)


def memory_format(x, weight, backend):
    """cuDNN's: channels-last if either tensor is."""
    for t in (x, weight):
        if (t.dim() == 4 and not t.is_contiguous()
                and t.is_contiguous(memory_format=torch.channels_last)):
            return torch.channels_last
    return torch.contiguous_format


def scaled_dot_product_attention(query,
                                 key,
                                 value,
                                 attn_mask=None,
                                 dropout_p=0.,
                                 is_causal=False):
    """Picks the kernel by torch's rules, which would ask the driver.

    The form that materializes the logits is an error.
    """
    tensors = [query, key, value]
    mask = attn_mask
    if torch.is_autocast_enabled('cuda'):
        dtype = torch.get_autocast_dtype('cuda')
        tensors = [t.to(dtype) for t in tensors]
        if mask is not None and mask.is_floating_point():
            mask = mask.to(dtype)
    squeeze = query.dim() == 3
    if squeeze:
        tensors = [t[None] for t in tensors]
    q, k, v = tensors
    half = q.dtype in (torch.float16, torch.bfloat16)
    if mask is None and half and q.shape[-1] % 8 == 0 and q.shape[-1] <= 256:
        out = aten._scaled_dot_product_flash_attention(q, k, v, dropout_p,
                                                       is_causal)[0]
        return out[0] if squeeze else out
    assert q.shape[-1] % (8 if half else 4) == 0, 'no fused kernel'
    if mask is not None:
        mask = as_bias(mask, q, k)
    needs_grad = any(t is not None and t.requires_grad for t in (q, k, v, mask))
    out = aten._scaled_dot_product_efficient_attention(
        q, k, v, mask, needs_grad and torch.is_grad_enabled(), dropout_p,
        is_causal)[0]
    return out[0] if squeeze else out


def as_bias(mask: Tensor, q: Tensor, k: Tensor) -> Tensor:
    """A mask as the memory-efficient kernel takes it: added, aligned."""
    assert mask.device.type == 'cuda', mask.device
    assert mask.dtype in (torch.bool, q.dtype), mask.dtype
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(
            mask, dtype=q.dtype).masked_fill_(~mask, float('-inf'))
    mask = mask[(None, ) * (4 - mask.dim())]
    length = mask.shape[-1]
    if length % 8:
        mask = F.pad(mask, (0, -length % 8))[..., :length]
    return mask.expand(*q.shape[:3], k.shape[2])


def install() -> None:
    fake_tensor.init_gpu_context = lambda device: None
    cuda = torch.cuda
    cuda._lazy_init = lambda: None
    cuda.is_initialized = lambda: False
    cuda.get_device_properties = lambda device=None: PROPERTIES
    cuda.get_device_capability = lambda device=None: (9, 0)
    cuda.get_device_name = lambda device=None: PROPERTIES.name
    cuda.is_bf16_supported = lambda *args, **kwargs: True
    cuda.current_device = lambda: 0
    cuda.synchronize = lambda *args: None
    cuda.is_available = lambda: True
    cuda.device_count = lambda: 1
    common.amp_definitely_not_available = lambda: False
    torch._C._select_conv_backend = (
        lambda *args, **kwargs: torch._C._ConvBackend.Cudnn)
    torch._C._conv_determine_backend_memory_format = memory_format
    torch._C._set_only_lift_cpu_tensors(True)
    torch.tensor = make_tensor
    Tensor.new_tensor = new_tensor
    F.scaled_dot_product_attention = scaled_dot_product_attention


install()
