"""Parts that compare a GPU with a CPU."""
import math
import sys
import tempfile
import warnings
from itertools import product
from pathlib import Path
from typing import Any

import mmcv.ops
import torch
from torch import Tensor, nn
from mmhier import apis
from mmhier.apis.trial_batches import build_wrapper
from mmhier.datasets import generate_shapes
from mmhier.engine.determinism import nondeterministic_modules
from mmhier.models.layers import attend
from mmhier.models.layers.windows import MASKED
from mmhier.ops import describe_operators
from . import models
from .rows import ROOT, Rows


def check_environment(rows: Rows) -> None:
    """Versions and the card."""
    rows.add(
        'versions',
        None,
        python=sys.version.split()[0],
        torch=torch.__version__,
        operators=describe_operators())
    if rows.device == 'cuda':
        card = torch.cuda.get_device_properties(0)
        rows.add(
            'card',
            None,
            name=card.name,
            GiB=card.total_memory / 2**30,
            processors=card.multi_processor_count,
            cudnn=torch.backends.cudnn.version())


def half_dtypes(rows: Rows) -> list[torch.dtype]:
    return [torch.bfloat16] + [torch.float16] * (rows.device == 'cuda')


def check_operators(rows: Rows) -> None:
    """mmcv's operators, and the forms for GPUs, against the CPU's."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(500, 2, generator=generator) * 500
    sizes = torch.rand(500, 2, generator=generator) * 100 + 1
    boxes = torch.cat([corners, corners + sizes], 1)
    scores = torch.rand(500, generator=generator)
    for name in ('nms', 'soft_nms'):
        with rows.case(name):
            function = getattr(mmcv.ops, name)
            kept = [
                function(boxes.to(d), scores.to(d), iou_threshold=.5)[1].cpu()
                for d in ('cpu', rows.device)
            ]
            rows.add(name, torch.equal(*kept), kept=len(kept[0]))
    images = torch.randint(0, 2, (500, 1), generator=generator)
    rois = torch.cat([images.float(), boxes], 1)
    x = torch.randn(2, 16, 160, 160, generator=generator)
    logits = torch.randn(2000, 80, generator=generator) * 8
    targets = torch.randint(0, 81, (2000, ), generator=generator)
    for dtype in (torch.float32, *half_dtypes(rows)):
        for is_strict, ratio in product((False, True), (0, 2)):
            what = (f'RoIAlign, {ratio} samples, deterministic {is_strict}, '
                    f'{dtype}')
            with rows.case(what), deterministic(is_strict):
                compare_gradients(rows, what, mmcv.ops.RoIAlign(7, .25, ratio),
                                  dtype, x, rois)
        what = f'focal loss, {dtype}'
        with rows.case(what):
            compare_gradients(
                rows, what, lambda a, b: mmcv.ops.sigmoid_focal_loss(
                    a, b, 2., .25, None, 'none'), dtype, logits, targets)


def check_limits(rows: Rows) -> None:
    """Attention of more windows than a CUDA grid has rows, 65,535."""
    generator = torch.Generator(rows.device).manual_seed(0)
    for dtype in (torch.float32, *half_dtypes(rows)):
        for count in (300, ) if rows.is_dry else (65535, 65536, 70000):
            for tokens, is_masked in ((64, False), (49, True)):
                what = f'{count} windows of {tokens}, {dtype}'
                with rows.case(what):
                    compare_windows(rows, what, generator,
                                    (count, 1, tokens, 48), dtype, is_masked)


def compare_windows(rows: Rows, what: str, generator: torch.Generator,
                    shape: tuple, dtype: torch.dtype, is_masked: bool) -> None:
    """The last windows of many, against these alone in the readable form."""
    q, k, v = (
        torch.randn(
            shape,
            generator=generator,
            device=rows.device,
            dtype=dtype,
            requires_grad=True) for _ in range(3))
    mask = None
    if is_masked:
        mask = torch.zeros(shape[0], 1, 1, shape[2], device=rows.device)
        mask[shape[0] // 2:, ..., shape[2] // 2:] = MASKED
    out = attend(q, k, v, mask=mask)
    weight = torch.randn_like(out)
    (out * weight).sum().backward()
    last = [t[-64:].detach().float().requires_grad_() for t in (q, k, v)]
    expected = attend(
        *last, mask=None if mask is None else mask[-64:], attn_impl='eager')
    (expected * weight[-64:].float()).sum().backward()
    error = models.relative_error(out[-64:].detach(), expected.detach())
    grad_error = max(
        models.relative_error(t.grad[-64:], own.grad)
        for t, own in zip((q, k, v), last))
    limit = 1e-3 if dtype == torch.float32 else 0.1
    rows.add(
        what,
        error < limit and grad_error < limit,
        error=error,
        grad_error=grad_error)


class deterministic:
    """Context of torch's deterministic algorithms."""

    def __init__(self, is_strict: bool):
        self.is_strict = is_strict

    def __enter__(self) -> None:
        torch.use_deterministic_algorithms(self.is_strict)

    def __exit__(self, *error: Any) -> None:
        torch.use_deterministic_algorithms(False)


def compare_gradients(rows: Rows, what: str, function: Any, dtype: torch.dtype,
                      x: Tensor, *others: Tensor) -> None:
    """Output and gradient of x on both devices."""
    results = []
    for device in ('cpu', rows.device):
        leaf = x.detach().to(device, dtype).requires_grad_()
        out = function(
            leaf,
            *(t.to(device, dtype if t.is_floating_point() else t.dtype)
              for t in others))
        out.float().square().sum().backward()
        results.append((out.detach(), leaf.grad))
    error, grad_error = (models.relative_error(found, expected)
                         for expected, found in zip(*results))
    limit = 1e-3 if dtype == torch.float32 else 0.1
    rows.add(
        what,
        error < limit and grad_error < limit,
        error=error,
        grad_error=grad_error)


def check_backbones(rows: Rows) -> None:
    """Outputs within 1e-3 of their deviation, gradients within 1e-2."""
    for family, arch in models.all_variants(rows):
        what = f'{family} {arch}'
        with rows.case(what):
            compare_backbone(rows, what, family, arch)


def compare_backbone(rows: Rows, what: str, family: str, arch: str) -> None:
    expected = models.backbone(family, arch)
    found = models.backbone(family, arch).to(rows.device)
    x = torch.randn(2, 3, *((64, 96) if rows.is_dry else (101, 165)))
    facts: dict[str, Any] = {}
    for mode in ('inference', 'training'):
        is_training = mode == 'training'
        with torch.set_grad_enabled(is_training):
            outs = [
                m.train(is_training)(x.to(d))
                for m, d in ((expected, 'cpu'), (found, rows.device))
            ]
        facts[mode] = max(models.relative_error(b, a) for a, b in zip(*outs))
    weights = [torch.randn_like(out) for out in outs[0]]
    for own in outs:
        sum((a * w.to(a.device)).sum() for a, w in zip(own, weights)).backward()
    # A floor: rounding decides which of two equal maxima HVT takes.
    facts['gradient'], facts['of'] = max(
        ((p.grad - q.grad.cpu()).norm().item() /
         (p.grad.norm().item() + 1e-6 * p.numel()**.5), name)
        for (name,
             p), q in zip(expected.named_parameters(), found.parameters()))
    x = x.to(rows.device)
    with torch.no_grad():
        reference = found.eval()(x)
        for impl in ('sdpa', 'eager'):
            other = models.backbone(family, arch, attn_impl=impl)
            other.load_state_dict(found.state_dict())
            outs = other.to(rows.device).eval()(x)
            facts[impl] = max(map(models.relative_error, outs, reference))
        for dtype in half_dtypes(rows):
            with torch.autocast(rows.device, dtype):
                outs = found(x)
            facts[str(dtype)[6:]] = max(
                map(models.relative_error, outs, reference))
    limits = dict(gradient=1e-2, bfloat16=0.5, float16=0.1)
    ok = all(value < limits.get(key, 1e-3) for key, value in facts.items()
             if key != 'of')
    rows.add(what, ok, **facts)


def check_precision(rows: Rows) -> None:
    """Two training steps of each task in each precision, and boxes."""
    dtypes = ['float32', *(str(d)[6:] for d in half_dtypes(rows))]
    for task, path in models.tasks(rows).items():
        reference = math.nan
        for dtype in dtypes:
            what = f'{task}, {dtype}'
            with rows.case(what):
                losses, skipped = train_steps(rows, path, dtype)
                if dtype == 'float32':
                    reference = losses[0]
                drift = abs(losses[0] / reference - 1)
                rows.add(
                    what,
                    all(map(math.isfinite, losses)) and drift < .05,
                    losses=losses,
                    drift=drift,
                    skipped=skipped)
    with rows.case('boxes'):
        compare_boxes(rows)


def train_steps(rows: Rows, path: str, dtype: str) -> tuple[list[float], int]:
    """Losses, and steps that a gradient scaler skipped."""
    cfg, module, images = models.whole_model(path, rows)
    wrapper = build_wrapper(cfg, module.model, dtype)
    losses, skipped = [], 0
    parameter = next(p for p in module.parameters() if p.requires_grad)
    for _ in range(6 if dtype == 'float16' else 2):
        before = parameter.detach().clone()
        torch.manual_seed(0)
        with wrapper.optim_context(module.model):
            loss = sum(module(images))
        wrapper.update_params(loss)
        skipped += torch.equal(parameter, before)
        losses.append(round(loss.item(), 4))
    return losses, skipped


def compare_boxes(rows: Rows) -> None:
    """Proposals under autocast lie on those of float32."""
    from torchvision.ops import box_iou
    _, module, images = models.whole_model(
        models.tasks(rows)['Mask R-CNN'], rows)
    model = module.model.eval()
    samples = [module._sample(image) for image in images]
    found = {}
    for dtype in (None, *half_dtypes(rows)):
        with torch.no_grad(), torch.autocast(
                rows.device, dtype, enabled=dtype is not None):
            maps = model.extract_feat(images)
            proposals = model.rpn_head.predict(maps, samples, rescale=False)
        found[dtype] = proposals[0].bboxes
    for dtype in half_dtypes(rows):
        boxes = found[dtype]
        iou = box_iou(found[None], boxes.float()).max(1).values.mean().item()
        rows.add(
            f'proposals, {dtype}',
            boxes.dtype == torch.float32 and iou > 0.9,
            IoU=iou,
            dtype=str(boxes.dtype))


def check_determinism(rows: Rows) -> None:
    """Two runs agree to the bit unless the model is refused beforehand."""
    for task, path in models.tasks(rows).items():
        with rows.case(task):
            _, module, images = models.whole_model(path, rows)
            refused = nondeterministic_modules(module)
            differing, raised = -1, ''
            with deterministic(True):
                try:
                    first, second = (
                        models.gradients(module, images) for _ in range(2))
                    differing = sum(not torch.equal(a, b)
                                    for a, b in zip(first, second))
                except RuntimeError as error:
                    raised = str(error)[:150]
            rows.add(
                task,
                differing == 0 or bool(refused),
                refused=', '.join(refused),
                differing=differing,
                raised=raised)


def check_resuming(rows: Rows) -> None:
    """Four iterations are two and two more, to the bit."""
    cases = [('mask-rcnn_hatnet-demo', True, None)]
    if not rows.is_dry:
        cases += [('retinanet_lit-demo_fpn', False, None),
                  ('hvt-demo', True, None)]
    cases += [('mask-rcnn_hatnet-demo', True, str(d)[6:])
              for d in half_dtypes(rows)]
    with tempfile.TemporaryDirectory() as folder:
        generate_shapes(Path(folder, 'shapes'), num_train=24, num_val=4)
        for name, is_strict, dtype in cases:
            what = f'{name}, deterministic {is_strict}, {dtype or "float32"}'
            with rows.case(what):
                weights = [
                    train(
                        Path(folder),
                        name,
                        f'{dtype}-{label}',
                        count,
                        resume=resume,
                        deterministic=is_strict,
                        amp_dtype=dtype)
                    for label, count, resume in (('whole', 4, None), ('parts',
                                                                      2, None),
                                                 ('parts', 4, 'auto'))
                ]
                differing = [
                    k for k in weights[0]
                    if not torch.equal(weights[0][k], weights[2][k])
                ]
                rows.add(
                    what,
                    not differing or not is_strict,
                    differing=len(differing))
            torch.use_deterministic_algorithms(False)


def train(folder: Path, name: str, label: str, iterations: int,
          **options: Any) -> dict[str, Tensor]:
    """Weights after some iterations."""
    runner = apis.train(
        str(ROOT / f'configs/demo/{name}_shapes.py'),
        work_dir=str(folder / f'{name}-{label}'),
        data_root=str(folder / 'shapes'),
        seed=0,
        no_validate=True,
        cfg_options={
            'train_cfg.max_iters': iterations,
            'default_hooks.checkpoint.interval': 2,
            'train_dataloader.batch_size': 2,
            'train_dataloader.num_workers': 0,
            'train_dataloader.persistent_workers': False
        },
        **options)
    return {k: v.cpu() for k, v in runner.model.state_dict().items()}


def check_waits(rows: Rows) -> None:
    """No wait for the device within a pass; inference in a CUDA graph."""
    if rows.device != 'cuda':
        rows.add('waits', None, note='needs a GPU')
        return
    for family, arch in models.ONE_EACH:
        model = models.backbone(family, arch).cuda()
        x = torch.randn(1, 3, 256, 320, device='cuda')
        for is_training in (False, True):
            with rows.case(f'{family} {arch}'), torch.set_grad_enabled(
                    is_training), warnings.catch_warnings(record=True) as seen:
                model.train(is_training)(x)
                torch.cuda.synchronize()
                warnings.simplefilter('always')
                torch.cuda.set_sync_debug_mode('warn')
                outs = model(x)
                if is_training:
                    sum(out.sum() for out in outs).backward()
                torch.cuda.set_sync_debug_mode('default')
                places = {f'{Path(w.filename).name}:{w.lineno}' for w in seen}
                rows.add(
                    f'{family} {arch}, training {is_training}',
                    not seen,
                    waits=', '.join(sorted(places)))
            torch.cuda.set_sync_debug_mode('default')
        with rows.case(f'{family} {arch} in a CUDA graph'):
            capture(rows, f'{family} {arch} in a CUDA graph', model.eval(), x)


@torch.no_grad()
def capture(rows: Rows, what: str, model: nn.Module, x: Tensor) -> None:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        expected = model(x)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = model(x)
    graph.replay()
    error = max(map(models.relative_error, found, expected))
    rows.add(what, error < 1e-3, error=error)


def check_compiling(rows: Rows) -> None:
    """``compile=True`` gives the same numbers for images of two sizes."""
    pairs = models.all_variants(rows)[:1] if rows.is_dry else models.ONE_EACH
    # Inductor's C++ takes minutes on a CPU.
    form = dict(backend='aot_eager') if rows.is_dry else True
    for family, arch in pairs:
        with rows.case(f'{family} {arch}'):
            plain, fast = (
                models.backbone(family, arch, compile=c).to(rows.device).eval()
                for c in (False, form))
            errors = []
            for size in ((64, 96), (96, 64)):
                x = torch.randn(2, 3, *size, device=rows.device)
                with torch.no_grad():
                    errors += map(models.relative_error, fast(x), plain(x))
            rows.add(f'{family} {arch}', max(errors) < 2e-3, error=max(errors))
