"""Exported files against the model they were made from."""
import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from mmhier.errors import MMHierError
from mmhier.progress import track
from .exporting import graph_paths
from .graphs import MAX_SIZE, MIN_SIZE, build_graphs

TOLERANCE = 1e-4
# None of them is seen in the export, nor a multiple of 32.
CHECK_SIZES = ((80, 144), (203, 317), (255, 97))


class Difference(NamedTuple):
    """Of one output for images of one size.

    Attributes:
        file (str): Name of the exported file.
        size (tuple[int, int]): Height and width of the images.
        output (str): Name of the output.
        error (float): Largest absolute difference, by the standard deviation
            of the model's own output; 0 or inf for integers. It is that from
            the model in float64 where that from the model is above 1e-4 and
            larger: two float32 results can be off by the rounding of each.
    """
    file: str
    size: tuple[int, int]
    output: str
    error: float


def check_export(
        model: torch.nn.Module,
        out: str,
        part: str = 'model',
        sizes: Sequence[tuple[int, int]] = CHECK_SIZES) -> list[Difference]:
    """Compare exported files with the model in eager mode.

    Inputs are random: normal noise for images and maps, boxes of all sizes.
    The batch size alternates between 1 and 2.

    Args:
        model (nn.Module): The exported model, in eval mode.
        out (str): What was given to :func:`export_model`. Programs of torch
            (.pt2) have to be trusted: they can hold code.
        part (str): The exported part. Defaults to 'model'.
        sizes (Sequence[tuple[int, int]]): Heights and widths of the images.

    Returns:
        list[Difference]: One per file, size and output. A difference above
        1e-4 is no rounding.

    Raises:
        MMHierError: If a file is missing or does not belong to the model, or a
            size is not supported.
    """
    for size in sizes:
        if not all(MIN_SIZE <= side <= MAX_SIZE for side in size):
            raise MMHierError(f'--sizes {size[0]}x{size[1]}: expected heights '
                              f'and widths from {MIN_SIZE} to {MAX_SIZE}')
    graphs = build_graphs(model, part)
    differences = []
    for graph, path in zip(graphs, graph_paths(Path(out), graphs)):
        if not path.is_file():
            raise MMHierError(f'{path} does not exist: export the model first')
        for size in sizes:
            if path.suffix == '.pt2' and min(size) < graph.min_program_size:
                raise MMHierError(
                    f'{path} is a program of torch, which takes heights and '
                    f'widths from {graph.min_program_size}, so it cannot be '
                    f'checked with --sizes {size[0]}x{size[1]}')
        run = _open_program(path, list(graph.inputs), list(graph.outputs))
        for i, size in enumerate(track(sizes, f'Checking {path.name}')):
            inputs = graph.example_inputs(1 + i % 2, *size)
            results = run(inputs)
            errors = _errors(results, graph, inputs)
            if any(TOLERANCE < error < math.inf for error in errors):
                errors = list(
                    map(
                        min, errors,
                        _errors(results,
                                deepcopy(graph).double(), _to_float64(inputs))))
            differences += [
                Difference(path.name, (size[0], size[1]), name, error)
                for name, error in zip(graph.outputs, errors)
            ]
    return differences


def _open_program(path: Path, inputs: list[str],
                  outputs: list[str]) -> Callable:
    """Function from a graph's inputs to its outputs."""
    if path.suffix == '.pt2':
        module = torch.export.load(path).module()

        def run_torch(values: Sequence) -> Sequence[Tensor]:
            with torch.no_grad():
                results = module(*values)
            return (results, ) if isinstance(results, Tensor) else results

        return run_torch
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import (
        Fail,
        InvalidArgument,
        InvalidGraph,
        InvalidProtobuf,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(
            path, options, providers=['CPUExecutionProvider'])
    except (Fail, InvalidArgument, InvalidGraph, InvalidProtobuf) as error:
        raise MMHierError(f'{path} cannot be opened by onnxruntime: '
                          f'{str(error).splitlines()[0]}') from error
    names = ([value.name for value in session.get_inputs()],
             [value.name for value in session.get_outputs()])
    if names != (inputs, outputs):
        raise MMHierError(
            f'{path} is another graph: it has inputs {", ".join(names[0])} '
            f'and outputs {", ".join(names[1])}, expected {", ".join(inputs)} '
            f'and {", ".join(outputs)}')

    def run_onnx(values: Sequence) -> Sequence[Tensor]:
        tensors: list[Tensor] = []
        for value in values:
            tensors += [value] if isinstance(value, Tensor) else value
        feed = {name: tensor.numpy() for name, tensor in zip(inputs, tensors)}
        return [torch.from_numpy(result) for result in session.run(None, feed)]

    return run_onnx


def _to_float64(values: Any) -> Any:
    """Tensors, or lists of them, in float64; integers stay as they are."""
    if isinstance(values, Tensor):
        return values.double() if values.is_floating_point() else values
    return [_to_float64(value) for value in values]


def _errors(results: Sequence[Tensor], graph: torch.nn.Module,
            inputs: Sequence) -> list[float]:
    """Of each result, from what the graph makes of the inputs."""
    with torch.no_grad():
        expected = graph(*inputs)
    if isinstance(expected, Tensor):
        expected = (expected, )
    return list(map(_error, results, expected))


def _error(result: Tensor, expected: Tensor) -> float:
    if result.shape != expected.shape:
        return math.inf
    if not expected.is_floating_point():
        return 0. if torch.equal(result, expected) else math.inf
    error = (result - expected).abs().max().item()
    if error == 0:
        return 0.
    error /= expected.std().item() or math.nan
    return error if math.isfinite(error) else math.inf
