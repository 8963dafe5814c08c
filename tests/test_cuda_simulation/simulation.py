"""Simulate passes of a backbone on CUDA: ``simulation.py CASE...``.

Run as a program with runtime.cpp preloaded. Each case is a JSON object of
arguments, "run" the name of their function, :func:`simulate` if left out; each
result is a line of JSON. The predicted time of a call is that of an H100, by
bytes moved, FLOPs or launch, whichever takes longest.
"""
import json
import os
import sys
import weakref
from collections import Counter
from contextlib import nullcontext

from . import fake_cuda  # isort: skip  # noqa: F401  before all else
import torch
from mmcv.ops import sigmoid_focal_loss
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from mmhier.analysis.variants import PEERS
from mmhier.models.layers.sequence import sequence
from mmhier.registry import MODELS
from mmhier.visualization import attention_maps

BYTES_PER_SECOND = 2.6e12
HALF_FLOPS, FLOAT_FLOPS = 500e12, 50e12
LAUNCH_SECONDS = 2.5e-6
# Of a list, as torch's kernels take them (depth_to_max_tensors, two lists).
TENSORS_PER_LAUNCH = 64
MIB = 2**20
PAGE = 512  # bytes, of the caching allocator
# Operators that wait for the device, and those that launch nothing.
WAITS = {
    '_local_scalar_dense', 'nonzero', 'equal', '_unique2', 'masked_select',
    'is_nonzero'
}
VIEWS = set('''view _unsafe_view reshape permute transpose t expand slice select
    unsqueeze squeeze detach alias unbind split split_with_sizes as_strided
    unfold empty empty_like empty_strided new_empty new_empty_strided
    _reshape_alias lift_fresh chunk diagonal unsqueeze_ squeeze_ detach_
    resize_ set_'''.split())


class Recorder(TorchDispatchMode):
    """Counts launches, waits, time and memory by phase."""

    def __init__(self):
        super().__init__()
        self.phase = 'forward'
        self.calls, self.seconds = Counter(), Counter()
        self.faults = Counter()
        self.references: dict[int, weakref.ref] = {}
        self.bytes = self.peak = 0

    def track(self, tensors: list[Tensor]) -> None:
        """Add the memory of these tensors, until it is freed."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key = storage._cdata
            if tensor.device.type != 'cuda' or key in self.references:
                continue
            size = -(-storage.nbytes() // PAGE) * PAGE

            def free(_, key=key, size=size):
                del self.references[key]
                self.bytes -= size

            self.references[key] = weakref.ref(storage, free)
            self.bytes += size
            self.peak = max(self.peak, self.bytes)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = func._overloadpacket.__name__
        outputs = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        inputs = [
            t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)
        ]
        launches = 1
        if name.startswith('_foreach_'):
            launches = -(-len(args[0]) // TENSORS_PER_LAUNCH)
            outputs = outputs or list(args[0])
        self.track(outputs)
        devices = {t.device.type for t in inputs + outputs}
        if name in WAITS or ('copy' in name and len(devices) > 1):
            self.faults[f'{self.phase}: {name} waits'] += 1
        if name in VIEWS or not outputs:
            return out
        if 'cpu' in devices:
            self.faults[f'{self.phase}: {name} on the CPU'] += 1
        if func.namespace not in ('aten', 'torchvision'):
            self.faults[f'{self.phase}: {func}'] += 1
        self.calls[self.phase] += launches
        self.seconds[self.phase] += max(
            sum(t.numel() * t.element_size()
                for t in inputs + outputs) / BYTES_PER_SECOND,
            count_flops(func._overloadpacket, args, kwargs, out) /
            (HALF_FLOPS if any(
                t.dtype in (torch.float16, torch.bfloat16)
                for t in inputs) else FLOAT_FLOPS), launches * LAUNCH_SECONDS)
        return out


def count_flops(packet, args: tuple, kwargs: dict, out) -> int:
    name = packet.__name__
    if name == 'convolution_backward':
        grad, _, weight = args[:3]
        return 2 * grad.numel() * weight[0].numel() * sum(args[-1][:2])
    if name == 'deform_conv2d':
        return 2 * out.numel() * args[1][0].numel()
    if name == '_deform_conv2d_backward':
        return 4 * args[0].numel() * args[2][0].numel()
    count = flop_registry.get(packet)
    return 0 if count is None else count(*args, **kwargs, out_val=out)


def build(family: str, arch: str, **settings) -> nn.Module:
    """A backbone of mmhier, or of the family 'peer' one to compare with."""
    if family == 'peer':
        import mmdet.models  # noqa: F401  registers the peers
        import mmpretrain.models  # noqa: F401
        # Their constructors read numbers from tensors.
        with unset_fake_temporarily():
            model = MODELS.build(PEERS[arch][0])
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        model._apply(lambda t: torch.empty_like(t, device='cuda'))
    else:
        with torch.device('cuda'):
            model = MODELS.build(
                dict(type=f'mmhier.{family}', arch=arch, **settings))
    for module in model.modules():
        if type(module).__name__ == 'DropPath':
            module.drop_prob = 0.
    assert {t.device.type for t in model.state_dict().values()} == {'cuda'}
    return model


def simulate(family: str,
             arch: str,
             dtype: str = 'float32',
             training: bool = True,
             size: tuple[int, int] = (800, 1344),
             batch: int = 2,
             **settings) -> dict:
    """Forward pass, and backward pass in training, of a backbone.

    Args:
        family (str): Of backbones.
        arch (str): Its variant.
        dtype (str): Of autocast; 'float32' for none.
        training (bool): Whether to take gradients.
        size (tuple[int, int]): Of the images.
        batch (int): Their number.
        **settings: Of the backbone.

    Returns:
        dict: Number of `parameters`; `calls` and `milliseconds` by phase;
        MiB that the forward pass
        leaves for the backward pass (`saved`) and at most takes (`peak`);
        `faults`.
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = build(family, arch, **settings)
        model.train(training)  # returns None for some models
        x = torch.randn(batch, 3, *size, device='cuda')
        recorder = Recorder()
        recorder.track([*model.parameters(), *model.buffers(), x])
        before = recorder.peak = recorder.bytes
        autocast = nullcontext()
        if dtype != 'float32':
            autocast = torch.autocast('cuda', getattr(torch, dtype))
        with recorder:
            with autocast, torch.set_grad_enabled(training):
                outs = model(x)
            result = dict(saved=(recorder.bytes - before) / MIB)
            for out in outs:
                assert out.device.type == 'cuda'
                assert family == 'peer' or out.is_contiguous()
            if training:
                recorder.phase = 'backward'
                loss = sum(out.float().mean() for out in outs)
                del outs
                loss.backward()
        faults = dict(recorder.faults)
        for name, parameter in model.named_parameters() if training else ():
            grad = parameter.grad
            if parameter.requires_grad != (grad is not None):
                faults[name] = 'gradient'
            elif grad is not None and (grad.dtype != parameter.dtype
                                       or grad.device != parameter.device):
                faults[name] = f'{grad.dtype} {grad.device}'
    return dict(
        result,
        parameters=sum(p.numel() for p in model.parameters()),
        peak=(recorder.peak - before) / MIB,
        calls=dict(recorder.calls),
        milliseconds={
            k: 1e3 * v
            for k, v in recorder.seconds.items()
        },
        faults=faults)


def show_attention(family: str, arch: str, stage: int) -> dict:
    """Devices of the maps of :func:`attention_maps` of an image on a GPU."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = build(family, arch).eval()
        x = torch.randn(1, 3, 64, 96, device='cuda')
        maps = attention_maps(model, x, (5., 5.), stage)
        return dict(devices=[str(m.probs.device) for m in maps])


def focal_loss(rows: int, classes: int) -> dict:
    """MiB of logits of a dense head, and those that its focal loss and their
    gradient take beside them."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        logits = torch.randn(rows, classes, device='cuda', requires_grad=True)
        targets = torch.zeros(rows, dtype=torch.long, device='cuda')
        recorder = Recorder()
        recorder.track([logits, targets])
        before = recorder.peak = recorder.bytes
        with recorder:
            loss = sigmoid_focal_loss(logits, targets, 2., .25, None, 'none')
            saved = recorder.bytes - before
            loss.sum().backward()
    return dict(
        logits=logits.nbytes / MIB,
        saved=saved / MIB,
        peak=(recorder.peak - before) / MIB,
        faults=dict(recorder.faults))


def compiled_operators(family: str, arch: str | dict) -> dict:
    """Names of the operators of a backbone's compiled graph."""
    # The state of a generator on the device would be asked for.
    torch.cuda.is_available = lambda: False
    names = set()

    def record(graph_module, inputs):
        names.update(
            str(node.target) for node in graph_module.graph.nodes
            if node.op == 'call_function')
        return graph_module.forward

    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        model = build(family, arch, compile=dict(backend=record))
        model.eval()(torch.randn(1, 3, 64, 96, device='cuda'))
    return dict(operators=sorted(names))


FUNCTIONS = {
    f.__name__: f
    for f in (simulate, show_attention, focal_loss, compiled_operators)
}


def main() -> None:
    # Fast forms step aside for parameters of foreign types.
    sys.modules[sequence.__module__].PLAIN_TENSORS += (FakeTensor, )
    for case in sys.argv[1:]:
        settings = json.loads(case)
        run = FUNCTIONS[settings.pop('run', 'simulate')]
        print(json.dumps(run(**settings)), flush=True)
    # Without the destructors of torch, which would ask the driver.
    os._exit(0)


if __name__ == '__main__':
    main()
