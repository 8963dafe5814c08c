"""Time and memory of several forms of a model, measured in turn.

All forms run in one process, one after the other in each round, so that what
slows the machine down slows all of them down; what is reported are medians
and ratios within a round. Peak memory is that of a fresh process.
"""
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from mmhier.engine.memory import collect_saved_bytes
from mmhier.errors import MMHierError

MODES = ('inference', 'training')
DTYPES = dict(
    float32=torch.float32, bfloat16=torch.bfloat16, float16=torch.float16)


@dataclass
class Case:
    """Mode, size and precision of a pass.

    Attributes:
        mode (str): 'inference', or 'training' for forward and backward.
        height (int): Of the images, in pixels.
        width (int): Of the images, in pixels.
        batch_size (int): Number of images.
        dtype (str): 'float32', or a narrower one for autocast.
        device (str): Such as 'cpu' or 'cuda'.
    """
    mode: str
    height: int
    width: int
    batch_size: int = 1
    dtype: str = 'float32'
    device: str = 'cpu'

    def images(self) -> Tensor:
        """Noise, (batch_size, 3, height, width), the same every time."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(
            self.batch_size, 3, self.height, self.width,
            generator=generator).to(self.device)


@dataclass
class Measurement:
    """One form of a model in one case.

    Attributes:
        variant (str): Name of the form.
        case (Case): Mode, size and precision.
        seconds (float, optional): Median time of a pass.
        speed_up (float, optional): Time of the first form over this one's,
            the median of the rounds.
        lowest, highest (float, optional): Of the speed-up over the rounds.
        difference (float, optional): Largest difference of an output from
            the first form's, over its standard deviation.
        peak_bytes (int, optional): Memory of a pass beyond what the process
            held before it.
        saved_bytes (int, optional): Kept for the backward pass, parameters
            left out.
        macs (int, optional): Multiply-adds of a pass.
    """
    variant: str
    case: Case
    seconds: float | None = None
    speed_up: float | None = None
    lowest: float | None = None
    highest: float | None = None
    difference: float | None = None
    peak_bytes: int | None = None
    saved_bytes: int | None = None
    macs: int | None = None


def run_pass(model: Callable[[Tensor], Any], case: Case, images: Tensor) -> Any:
    """One pass of a model; in training the gradients are left in place."""
    with torch.autocast(
            torch.device(case.device).type,
            DTYPES[case.dtype],
            enabled=case.dtype != 'float32'):
        if case.mode == 'inference':
            with torch.no_grad():
                return model(images)
        outs = model(images)
        loss = sum(out.float().mean() for out in _tensors(outs)
                   if out.requires_grad)
    if isinstance(model, nn.Module):
        model.zero_grad(set_to_none=True)
    loss.backward()
    return outs


def _tensors(outs: Any) -> list[Tensor]:
    """Floating-point tensors of a nested output."""
    if isinstance(outs, Tensor):
        return [outs] if outs.is_floating_point() else []
    if isinstance(outs, dict):
        outs = list(outs.values())
    if isinstance(outs, (list, tuple)):
        return [tensor for out in outs for tensor in _tensors(out)]
    return []


def _wait(device: str) -> None:
    if device.startswith('cuda'):
        torch.cuda.synchronize()


def measure(variants: dict[str, Callable[[Tensor], Any]],
            case: Case,
            rounds: int = 7,
            reference: str | None = None) -> list[Measurement]:
    """Time variants in turn.

    Args:
        variants (dict[str, Callable]): Forms by name, in the train or eval
            mode of the case. Speed-ups are over the first.
        case (Case): Mode, size and precision.
        rounds (int): How often each form is timed, after one pass that is
            not; 0 for not at all. Defaults to 7.
        reference (str, optional): Form whose outputs the others' are compared
            with. Defaults to None, the first.

    Returns:
        list[Measurement]: One a form, in order.
    """
    if rounds == 0:
        return [Measurement(name, case) for name in variants]
    images = case.images()
    firsts: dict[str, list[Tensor]] = {}
    for name, model in variants.items():
        outs = _tensors(run_pass(model, case, images))
        firsts[name] = [out.detach() for out in outs]
    expected = firsts[reference or next(iter(variants))]
    differences = [_difference(expected, outs) for outs in firsts.values()]
    del firsts
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, model in variants.items():
            _wait(case.device)
            start = time.perf_counter()
            run_pass(model, case, images)
            _wait(case.device)
            seconds[name].append(time.perf_counter() - start)
    base = seconds[next(iter(variants))]
    results = []
    for (name, times), difference in zip(seconds.items(), differences):
        ratios = [a / b for a, b in zip(base, times)]
        results.append(
            Measurement(name, case, median(times), median(ratios), min(ratios),
                        max(ratios), difference))
    return results


def _difference(expected: Sequence[Tensor],
                outs: Sequence[Tensor]) -> float | None:
    """Largest difference over the standard deviation; None if the shapes
    are others."""
    if [x.shape for x in expected] != [x.shape for x in outs]:
        return None
    return max((((a.float() - b.float()).abs().max() / a.float().std()).item()
                for a, b in zip(expected, outs) if a.numel()),
               default=0.)


def count_saved_bytes(model: Callable[[Tensor], Any], case: Case) -> int:
    """Bytes that a forward pass keeps for the backward pass.

    Storages count once, those of parameters and of the images not at all.
    """
    images = case.images()
    parameters = list(model.parameters()) if isinstance(model,
                                                        nn.Module) else []
    with collect_saved_bytes([images, *parameters]) as saved:
        with torch.autocast(
                case.device, DTYPES[case.dtype], enabled=case.dtype
                != 'float32'):
            model(images)
    return sum(saved.values())


def peak_bytes_of_pass(model: Callable[[Tensor], Any], case: Case) -> int:
    """Memory that one pass adds to the memory held before, in bytes.

    On a CPU it is the peak of the process, so only the first pass of a process
    can be measured.
    """
    images = case.images()
    if case.device.startswith('cuda'):
        run_pass(model, case, images)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run_pass(model, case, images)
        return torch.cuda.max_memory_allocated() - before
    # Load and allocate what the first convolution of any process needs.
    small = Case(case.mode, 224, 224, dtype=case.dtype)
    run_pass(model, small, small.images())
    before = _peak_bytes_so_far()
    run_pass(model, case, images)
    return _peak_bytes_so_far() - before


def _peak_bytes_so_far() -> int:
    """Largest resident memory of this program, in bytes."""
    try:
        with open('/proc/self/status') as status:
            line, = (line for line in status if line.startswith('VmHWM'))
        return int(line.split()[1]) * 1024
    except OSError:
        try:
            import resource
        except ImportError as error:
            raise MMHierError('peak memory cannot be measured on Windows: '
                              'leave --memory out') from error
        # Here a program that started this one counts as well.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peak_bytes_of_process(arguments: Sequence[str]) -> int:
    """Peak of memory that a new process of this program prints, in bytes.

    Raises:
        RuntimeError: If it fails, with its output.
    """
    done = subprocess.run([sys.executable, *arguments],
                          capture_output=True,
                          text=True)
    if done.returncode:
        raise RuntimeError(f'measuring memory failed:\n{done.stderr[-2000:]}')
    return int(done.stdout.split()[-1])


def profile_pass(model: Callable[[Tensor], Any],
                 case: Case) -> list[tuple[str, int, float]]:
    """Where the time of a pass goes.

    Returns:
        list[tuple[str, int, float]]: Name of an operator, how often it is
        called, and seconds within it alone; the longest first.
    """
    images = case.images()
    run_pass(model, case, images)
    cuda = case.device.startswith('cuda')
    activities = [torch.profiler.ProfilerActivity.CPU]
    if cuda:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        run_pass(model, case, images)
        _wait(case.device)
    found = [
        (event.key, event.count,
         (event.self_device_time_total if cuda else event.self_cpu_time_total) /
         1e6) for event in profiler.key_averages()
    ]
    return sorted(found, key=lambda row: -row[2])


def machine_rates(device: str) -> dict[str, float]:
    """Rates that a machine reaches, the best of several tries.

    Returns:
        dict[str, float]: By operation: billions of multiply-adds a
        second of products of matrices, convolutions, fused attention and the
        gradients of these, which are twice as many as the results take, and
        GB a second that are written to memory, used before and fresh from the
        system.
    """
    matrix = torch.randn(2048, 2048, device=device)
    image = torch.randn(
        1, 384, 64, 64,
        device=device).contiguous(memory_format=torch.channels_last)
    kernel = torch.randn(1536, 384, 1, 1, device=device)
    tokens = torch.randn(3, 1, 8, 1024, 48, device=device)
    small = torch.empty(2**24, device=device)
    # Billions of multiply-adds of the convolution and of the attention.
    convolved, attended = image.numel() * 1536 / 1e9, 2 * 8 * 1024**2 * 48 / 1e9

    def gradient_rate(function: Callable[..., Tensor], macs: float, *inputs:
                      Tensor) -> float:
        leaves = [x.detach().requires_grad_() for x in inputs]
        out = function(*leaves)
        grad = torch.randn_like(out)
        return 2 * macs / _shortest_time(
            lambda: torch.autograd.grad(out, leaves, grad, retain_graph=True),
            device)

    return {
        'linear layer, GMACs/s':
        2048**3 / 1e9 / _shortest_time(lambda: matrix @ matrix, device),
        '1x1 convolution, GMACs/s':
        convolved / _shortest_time(lambda: F.conv2d(image, kernel), device),
        'gradients of a 1x1 convolution, GMACs/s':
        gradient_rate(F.conv2d, convolved, image, kernel),
        'attention, GMACs/s':
        attended /
        _shortest_time(lambda: F.scaled_dot_product_attention(*tokens), device),
        'gradients of attention, GMACs/s':
        gradient_rate(F.scaled_dot_product_attention, attended, *tokens),
        'memory used before, GB/s':
        4 * small.numel() / 1e9 /
        _shortest_time(lambda: small.fill_(1.), device),
        'fresh memory, GB/s':
        fresh_memory_rate(device),
    }


def fresh_memory_rate(device: str) -> float:
    """GB a second written to memory fresh from the system, the best of ten.

    On a virtual machine it changes with what others do on the same hardware,
    and with it the time of every form that needs much memory.
    """
    small = torch.empty(2**24, device=device)
    return 4 * small.numel() / 1e9 / _shortest_time(
        lambda: torch.ones_like(small), device)


def _shortest_time(function: Callable[[], Any], device: str) -> float:
    times = []
    for _ in range(10):
        _wait(device)
        start = time.perf_counter()
        function()
        _wait(device)
        times.append(time.perf_counter() - start)
    return min(times)


def fit_line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Largest deviation of a straight line through points, and growth.

    Args:
        points (Sequence[tuple[float, float]]): Pixels and bytes.

    Returns:
        tuple[float, float]: Largest distance of a point from the line of
        least squares, over its value; and the power of the pixels that the
        bytes grow with, 1 for linear, 2 for quadratic growth.
    """
    x, y = torch.tensor(points, dtype=torch.float64).T
    design = torch.stack([torch.ones_like(x), x], 1)
    line = design @ torch.linalg.lstsq(design, y[:, None]).solution[:, 0]
    design = torch.stack([torch.ones_like(x), x.log()], 1)
    power = torch.linalg.lstsq(design, y.log()[:, None]).solution[1, 0]
    return ((line - y).abs() / y).max().item(), power.item()
