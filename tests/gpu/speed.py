"""Parts that measure time and memory."""
import time
from collections.abc import Callable
from contextlib import nullcontext
from itertools import product
from statistics import median
from typing import Any

import mmcv.ops
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from mmhier.analysis.variants import (
    PEERS,
    WholeModel,
    build_variant,
    load_target,
    variant_config,
)
from mmhier.apis.trial_batches import build_wrapper
from mmhier.engine.build import build_model
from mmhier.models.layers import (
    BranchGate,
    DilatedDepthwiseConv,
    attend,
    relative_position_bias,
)
from mmhier.models.layers.cuda import grid_attention
from mmhier.models.layers.norm import GlobalNorm
from . import models
from .rows import ROOT, Rows


def measure(rows: Rows,
            step: Callable[[], Any],
            rounds: int = 6) -> dict[str, float]:
    """Milliseconds, kernels and memory of a step."""
    step()
    if rows.device != 'cuda':
        start = time.perf_counter()
        step()
        return dict(ms=1e3 * (time.perf_counter() - start))
    step()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(rounds):
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        step()
        last.record()
        torch.cuda.synchronize()
        times.append(first.elapsed_time(last))
    peak = torch.cuda.max_memory_allocated()
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        step()
        torch.cuda.synchronize()
    kernels = [e for e in profile.events() if e.device_type.name == 'CUDA']
    return dict(
        ms=median(times),
        busy_ms=sum(e.device_time for e in kernels) / 1e3,
        kernels=len(kernels),
        peak_MiB=(peak - before) / 2**20,
        all_MiB=peak / 2**20)


def check_backbone_speed(rows: Rows) -> None:
    """Forms and peers at 800x1344, batch 2. Required of our forms: twice the
    speed of eager and of the authors', at half the memory."""
    size = (64, 96) if rows.is_dry else (800, 1344)
    names = [('swin-t', 'auto'), ('hatnet-tiny', 'auto')]
    if not rows.is_dry:
        names = [(name, 'auto') for name in PEERS]
        for family, arch in [*models.ONE_EACH, ('LIT', 'tiny')]:
            names += [(f'{family}-{arch}'.lower(), form)
                      for form in ('auto', 'eager')]
        names.append(('lit-small', 'sdpa'))
    for dtype in ('bfloat16', 'float32'):
        for mode in ('training', 'inference'):
            for name, form in names:
                if dtype == 'bfloat16' or form == 'auto':
                    what = f'{name} {form} {mode} {dtype}'
                    with rows.case(what):
                        rows.add(
                            what, None,
                            **time_backbone(rows, name, form, mode, dtype,
                                            size))
    # The authors' computation takes maps that windows tile.
    for form in () if rows.is_dry else ('plain', 'auto'):
        for name in ('hatnet-tiny', 'lit-tiny', 'hvt-s-1', 'accvit-tiny'):
            what = f'{name} {form} training bfloat16 896x1344'
            with rows.case(what):
                rows.add(
                    what, None,
                    **time_backbone(rows, name, form, 'training', 'bfloat16',
                                    (896, 1344)))
    for name in () if rows.is_dry else ('swin-t', 'hatnet-tiny', 'lit-small',
                                        'litv2-small', 'hvt-s-1',
                                        'accvit-tiny'):
        what = f'{name} training bfloat16, 128 images of 224'
        with rows.case(what):
            rows.add(
                what, None,
                **time_backbone(rows, name, 'auto', 'training', 'bfloat16',
                                (224, 224), 128))


def check_compiled_speed(rows: Rows) -> None:
    """Required: 1.2 times the speed of the same backbone not compiled."""
    # Inductor's C++ takes minutes on a CPU.
    if rows.device != 'cuda':
        rows.add('compiled', None, note='needs a GPU')
        return
    for family, arch in models.ONE_EACH:
        for form in ('auto', 'compiled'):
            what = f'{family} {arch} {form} training bfloat16'
            with rows.case(what):
                rows.add(
                    what, None,
                    **time_backbone(rows, f'{family}-{arch}'.lower(), form,
                                    'training', 'bfloat16', (800, 1344)))


def time_backbone(rows: Rows,
                  name: str,
                  form: str,
                  mode: str,
                  dtype: str,
                  size: tuple[int, int],
                  batch: int = 2) -> dict[str, float]:
    is_training = mode == 'training'
    model = build_variant(load_target(name), form, is_training, rows.device)
    x = torch.randn(batch, 3, *size, device=rows.device)

    def step() -> None:
        with torch.autocast(
                rows.device, torch.bfloat16, enabled=dtype ==
                'bfloat16'), torch.set_grad_enabled(is_training):
            outs = model(x)
        if is_training:
            model.zero_grad(set_to_none=True)
            sum(out.float().mean() for out in outs).backward()

    return measure(rows, step)


def check_detector_speed(rows: Rows) -> None:
    """Training steps of Mask R-CNN beside Swin-T and ResNet-50."""
    config = 'hatnet/mask-rcnn_hatnet-tiny_fpn_1x_coco'
    pairs = [(config, form) for form in ('auto', 'swin-t', 'resnet50')]
    pairs += [(f'{f}/mask-rcnn_{f}-{a}_fpn_1x_coco', 'auto')
              for f, a in (('lit', 'tiny'), ('hvt', 's-1'), ('accvit', 'tiny'))]
    size = (800, 1344)
    if rows.is_dry:
        pairs, size = [('demo/mask-rcnn_hatnet-demo_shapes', 'auto')], (96, 128)
    for name, form in pairs:
        with rows.case(f'{name} {form}'):
            target = load_target(str(ROOT / f'configs/{name}.py'))
            cfg = variant_config(target, form)
            model = build_model(cfg).to(rows.device)
            module = WholeModel(model, cfg.default_scope).train()
            wrapper = build_wrapper(cfg, model, 'bfloat16')
            images = torch.randn(2, 3, *size, device=rows.device)

            def step() -> None:
                with wrapper.optim_context(model):
                    loss = sum(module(images))
                wrapper.update_params(loss)

            facts = measure(rows, step)
            rows.add(
                f'{name} {form}', None, images_s=2e3 / facts['ms'], **facts)


def check_kernel_speed(rows: Rows) -> None:
    """Forms for a GPU beside others, and torch's attention kernels."""
    compare_norms(rows)
    compare_chunks(rows)
    compare_gates(rows)
    compare_layouts(rows)
    num_logits = (60, 8) if rows.is_dry else (2 * 9 * 100 * 168, 80)
    logits = torch.randn(num_logits, device=rows.device)
    targets = torch.randint(0, num_logits[1] + 1,
                            num_logits[:1]).to(logits.device)
    time_forms(
        rows, f'focal loss of {num_logits}',
        dict(ours=lambda x: mmcv.ops.sigmoid_focal_loss(x, targets, 2., .25,
                                                        None, 'none')), logits)
    if rows.device == 'cuda':
        compare_attention_kernels(rows)


def time_forms(rows: Rows, what: str, forms: dict[str, Callable], *inputs:
               Tensor) -> None:
    """Forward and backward pass of several forms of the same."""
    leaves = [x.requires_grad_() for x in inputs]

    for name, form in forms.items():

        def step() -> None:
            torch.autograd.grad(form(*leaves).float().sum(), leaves)

        with rows.case(f'{what}, {name}'):
            rows.add(f'{what}, {name}', None, **measure(rows, step))


def compare_norms(rows: Rows) -> None:
    """GlobalNorm beside torch's group_norm, at two of HAT-Net's maps."""
    sizes = [(200, 336, 48), (50, 84, 240)]
    for size in [(6, 6, 8)] if rows.is_dry else sizes:
        norm = GlobalNorm(size[-1]).to(rows.device)
        plain = nn.GroupNorm(1, size[-1], norm.eps).to(rows.device)
        for batch in (2, 16):
            time_forms(
                rows, f'norm of {(batch, *size)}', {
                    'ours':
                    norm,
                    'group_norm':
                    lambda x: plain(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
                }, torch.randn(batch, *size, device=rows.device))


def compare_chunks(rows: Rows) -> None:
    """LIT's grid attention by sizes of chunks, and with the whole bias."""
    height, width = (6, 8) if rows.is_dry else (50, 84)
    q, k, v = (
        torch.randn(
            2, 12, height * width, 32, device=rows.device, dtype=torch.bfloat16)
        for _ in range(3))
    table = torch.randn(
        (2 * height - 1) * (2 * width - 1), 12, device=rows.device)
    usual = grid_attention.CHUNK_SIZE
    for size in (2**24, usual, 2**28):
        grid_attention.CHUNK_SIZE = size
        time_forms(
            rows, 'grid attention', {
                f'chunks of {size}':
                lambda *x: grid_attention.attend_by_chunks(*x, height, width)
            }, q, k, v, table)
    grid_attention.CHUNK_SIZE = usual
    time_forms(
        rows, 'grid attention', {
            'whole bias':
            lambda q, k, v, table: attend(
                q, k, v, relative_position_bias(table, height, width))
        }, q, k, v, table)


def compare_gates(rows: Rows) -> None:
    """Both forms of the gates, at the widest maps of ACC-ViT, in bfloat16."""
    size = (2, 6, 8, 8) if rows.is_dry else (2, 200, 336, 256)
    maps = [
        torch.randn(size, device=rows.device, dtype=torch.bfloat16)
        for _ in range(4)
    ]
    gates = {
        impl: BranchGate(size[-1], 3, impl).to(rows.device)
        for impl in ('auto', 'eager')
    }
    with torch.autocast(rows.device, torch.bfloat16):
        time_forms(
            rows, f'gates of {size}', {
                impl: lambda x, *branches, gate=gate: gate(x, branches)
                for impl, gate in gates.items()
            }, *maps)


def compare_layouts(rows: Rows) -> None:
    """Depthwise convolutions of contiguous and of channels-last maps."""
    sizes = [(2, 384, 200, 336), (2, 256, 100, 168)]
    for size in [(2, 8, 6, 6)] if rows.is_dry else sizes:
        x = torch.randn(size, device=rows.device)
        for dilation, dtype in product((1, 2, 3),
                                       (torch.float32, torch.bfloat16)):
            conv = DilatedDepthwiseConv(size[1], 1, dilation).to(x)
            what = f'depthwise of {size}, dilation {dilation}, {dtype}'
            with torch.autocast(
                    rows.device, torch.bfloat16,
                    enabled=dtype == torch.bfloat16):
                for layout in (torch.contiguous_format, torch.channels_last):
                    time_forms(rows, what, {str(layout)[6:]: conv},
                               x.to(memory_format=layout).detach())


def compare_attention_kernels(rows: Rows) -> None:
    """Of torch, for images of new and of known sizes."""
    kinds = SDPBackend
    backends = {
        'any': None,
        'no cuDNN':
        [kinds.FLASH_ATTENTION, kinds.EFFICIENT_ATTENTION, kinds.MATH],
        'efficient': [kinds.EFFICIENT_ATTENTION, kinds.MATH]
    }
    sizes = [(480 + 32 * i, 640 + 32 * i) for i in range(6)]
    for family, arch in models.ONE_EACH:
        model = models.backbone(family, arch).cuda()
        for label, allowed in backends.items():
            what = f'{family} {arch}, {label}'
            context = sdpa_kernel(allowed) if allowed else nullcontext()
            with rows.case(what), context, torch.autocast(
                    'cuda', torch.bfloat16):
                times: list[list[float]] = [[], []]
                for own in times:
                    for size in sizes:
                        x = torch.randn(1, 3, *size, device='cuda')
                        torch.cuda.synchronize()
                        start = time.perf_counter()
                        sum(o.float().mean() for o in model(x)).backward()
                        torch.cuda.synchronize()
                        own.append(1e3 * (time.perf_counter() - start))
                rows.add(
                    what,
                    None,
                    new_ms=median(times[0]),
                    known_ms=median(times[1]))
