"""Writing a model as ONNX or as a program of torch.export."""
import json
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import MMLogger
from mmengine.registry import TRANSFORMS
from torch import Tensor, nn
import mmhier
from mmhier.apis.predictor import (
    dataset_metainfo,
    load_model_config,
    load_weights,
)
from mmhier.checkpoints.initializer import init_weights
from mmhier.engine.build import build_model
from mmhier.engine.config import iter_datasets, type_name
from mmhier.engine.config_errors import naming_config_errors
from mmhier.engine.pretrained import find_pretrained
from mmhier.errors import MMHierError
from mmhier.files import (
    file_sha256,
    make_writable,
    replacing,
    require_writable,
)
from .graphs import MAX_SIZE, MIN_SIZE, ExportGraph, build_graphs
from .preparing import prepare_for_export

SUFFIXES = dict(onnx='.onnx', torch='.pt2')
# From what torch writes to what onnxruntime 1.31 runs: it has RoiAlign of 16
# but not that of 22.
OPSETS = range(18, 22)
# Any size but those that tests and users ask for; two images, since a length
# of one would be taken for a constant.
_EXAMPLE = (2, 176, 208)
# Attributes of transforms that change the size of images.
_SETTINGS = ('scale', 'scale_factor', 'keep_ratio', 'edge', 'crop_size', 'size',
             'size_divisor', 'pad_val', 'interpolation', 'backend')


def export_model(config: str,
                 checkpoint: str | None,
                 out: str | Path,
                 *,
                 format: str = 'onnx',
                 part: str = 'model',
                 opset: int = OPSETS[-1],
                 overwrite: bool = False,
                 cfg_options: dict[str, Any] | None = None) -> list[Path]:
    """Write a model, for images of any size and number, and how to use it.

    A two-stage detector becomes three files, whose names end in -proposals,
    -boxes and -masks; see :mod:`mmhier.export.detection_graphs`. A json file,
    named as ``out`` with .json behind, states how images are prepared, the
    classes, and names and shapes of the inputs and outputs of each file.

    Args:
        config (str): Config file for mmdet, mmseg or mmpretrain, or name of
            a model of mmhier.
        checkpoint (str, optional): Weights of the model of the config. None
            for random weights, the same each time.
        out (str | Path): File to write, .onnx or .pt2.
        format (str): 'onnx' or 'torch'. Defaults to 'onnx'.
        part (str): 'model' or 'backbone'. Defaults to 'model'.
        opset (int): Of ONNX, 18 to 21. Defaults to 21.
        overwrite (bool): Replace existing files. Defaults to False.
        cfg_options (dict, optional): Values of the config by dotted key.

    Returns:
        list[Path]: The written graphs, without the json file.

    Raises:
        MMHierError: If an argument cannot be used.
    """
    out = Path(out)
    require_format(format)
    if out.suffix != SUFFIXES[format]:
        raise MMHierError(
            f'--out {out}: expected the suffix {SUFFIXES[format]} '
            f'for --format {format}')
    if opset not in OPSETS:
        raise MMHierError(f'--opset {opset}: expected a number from '
                          f'{OPSETS[0]} to {OPSETS[-1]}')
    make_writable('--out', out.parent)
    model, metainfo = load_model(config, checkpoint, cfg_options)
    model = prepare_for_export(model)
    graphs = build_graphs(model, part)
    inference = inference_settings(model) if part == 'model' else {}
    if inference.get('mode') == 'slide':
        warnings.warn(
            'test_cfg.mode=slide: the graph takes one window, '
            f'{inference["crop_size"]}; cut images into windows and average '
            'their logits, as the json file states')
    paths = graph_paths(out, graphs)
    notes = out.with_name(f'{out.name}.json')
    for path in (*paths, notes):
        require_writable('--out', path, overwrite)
    content = dict(
        format=format,
        part=part,
        config=config,
        checkpoint=checkpoint
        and dict(file=checkpoint, sha256=file_sha256(checkpoint)),
        mmhier_version=mmhier.__version__,
        torch_version=torch.__version__,
        transforms=metainfo.get('transforms', []),
        preprocessing=preprocessing(model),
        inference=inference,
        classes=metainfo.get('classes'),
        graphs=[])
    if format == 'onnx':
        content['opset'] = opset
    try:
        with ExitStack() as stack:
            # The first to be entered is the last to be put in place.
            partial = {
                path: stack.enter_context(replacing(path))
                for path in (notes, *paths)
            }
            for graph, path in zip(graphs, paths):
                write_graph(graph, partial[path], format, opset)
                content['graphs'].append(
                    dict(
                        file=path.name,
                        sha256=file_sha256(partial[path]),
                        inputs=graph.inputs,
                        outputs=graph.outputs))
            partial[notes].write_text(json.dumps(content, indent=2) + '\n')
    except OSError as error:
        raise MMHierError(
            f'cannot write {out}: {error.strerror or error}') from error
    return paths


def load_model(
    config: str,
    checkpoint: str | None,
    cfg_options: dict[str, Any] | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """Build the model of a config in eval mode.

    Args:
        config (str): See :func:`export_model`.
        checkpoint (str, optional): See :func:`export_model`.
        cfg_options (dict, optional): Values of the config by dotted key.

    Returns:
        tuple[nn.Module, dict]: The model, and what the checkpoint, or else
        the config, says of the data: ``classes``, if it names them, and the
        ``transforms`` of its test pipeline that change the size of images.

    Raises:
        MMHierError: If the config or the checkpoint cannot be used.
    """
    cfg = load_model_config(config, cfg_options=cfg_options)
    if checkpoint is None:
        find_pretrained(cfg, from_scratch=True)
    datasets = iter_datasets(cfg.get('test_dataloader'), 'test_dataloader')
    with naming_config_errors(cfg):
        metainfo: dict[str, Any] = {}
        for _, dataset in datasets:
            metainfo = dataset_metainfo(dataset)
            metainfo['transforms'] = _transforms(dataset)
        torch.manual_seed(0)
        model = build_model(cfg)
        if checkpoint is None:
            with _quiet_logger():
                init_weights(model)
        else:
            meta = load_weights(model, checkpoint).get('dataset_meta')
            metainfo.update(meta or {})
    return model.eval(), metainfo


@contextmanager
def _quiet_logger() -> Iterator[None]:
    """Without a line for each parameter that is initialized."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('ERROR')
    try:
        yield
    finally:
        logger.setLevel(level)


def require_format(format: str) -> None:
    """Check that torch and the packages of a format can export.

    Raises:
        MMHierError: If they cannot, or there is no such format.
    """
    if format not in SUFFIXES:
        raise MMHierError(f'--format {format}: expected one of '
                          f'{", ".join(SUFFIXES)}')
    packages = ('onnx', 'onnxscript', 'onnxruntime')
    missing = [name for name in packages if find_spec(name) is None]
    if format == 'onnx' and missing:
        raise MMHierError(
            f'--format onnx needs {", ".join(missing)}: run pip install '
            f'{" ".join(missing)}, or pip install "mmhier[export]"; --format '
            'torch needs nothing more')
    if not callable(torch.export.Dim.DYNAMIC):
        raise MMHierError(
            f'torch {torch.__version__} exports no graph for a range of image '
            'sizes: install torch 2.8 or newer')


def graph_paths(out: Path, graphs: list[ExportGraph]) -> list[Path]:
    """File of each graph of a model that is exported to `out`."""
    return [
        out.with_name(f'{out.stem}-{graph.name}{out.suffix}')
        if graph.name else out for graph in graphs
    ]


def preprocessing(model: nn.Module) -> dict[str, Any]:
    """Settings of a data preprocessor for an image (H, W, 3), BGR as read.

    Args:
        model (nn.Module): With a ``data_preprocessor`` of mmdet, mmseg or
            mmpretrain.

    Returns:
        dict: In the order of application: ``channel_order``, ``mean`` and
        ``std`` of the channels in that order; ``pad_size_divisor`` of height
        and width, or ``pad_size`` (height, width) that they have at least,
        padded on the right and bottom with ``pad_value``; then the sizes that
        the graphs take, ``min_size`` and ``max_size``.
    """
    own = model.data_preprocessor
    swaps = any(
        getattr(own, name, False)
        for name in ('_channel_conversion', 'channel_conversion', 'to_rgb'))
    normalizes = getattr(own, '_enable_normalize', False)
    test_cfg = getattr(own, 'test_cfg', None) or {}
    return dict(
        channel_order='RGB' if swaps else 'BGR',
        mean=_numbers(own.mean) if normalizes else [0.] * 3,
        std=_numbers(own.std) if normalizes else [1.] * 3,
        # mmseg's pads a test by test_cfg alone.
        pad_size_divisor=test_cfg.get('size_divisor')
        or getattr(own, 'pad_size_divisor', None) or 1,
        pad_size=test_cfg.get('size'),
        pad_value=getattr(own, 'pad_value', getattr(own, 'pad_val', 0)),
        min_size=MIN_SIZE,
        max_size=MAX_SIZE)


def inference_settings(model: nn.Module) -> dict[str, Any]:
    """Settings that turn the outputs of a model into predictions.

    Args:
        model (nn.Module): Of any package.

    Returns:
        dict: ``activation`` to be applied to the outputs: 'softmax',
        'sigmoid' or 'none'. For a segmentor, ``mode`` ('whole' or
        'slide'), with ``crop_size`` and ``stride`` (height, width) of
        windows; ``align_corners`` of the logits' resizing; and the
        ``threshold`` of a sigmoid. For a detector, ``test_cfg``.
    """
    head = getattr(model, 'decode_head', None)
    if head is None:
        test_cfg = getattr(model, 'test_cfg', None)
        return dict(activation='none') | (
            dict(test_cfg=_as_json(test_cfg)) if test_cfg else {})
    settings = dict(
        mode=model.test_cfg.get('mode', 'whole'),
        align_corners=head.align_corners)
    if settings['mode'] == 'slide':
        settings['crop_size'] = list(model.test_cfg['crop_size'])
        settings['stride'] = list(model.test_cfg['stride'])
    if head.out_channels == 1:
        return dict(settings, activation='sigmoid', threshold=head.threshold)
    return dict(settings, activation='softmax')


def _transforms(dataset: dict) -> list[dict[str, Any]]:
    """Transforms of a pipeline that resize, crop or pad images, with their
    defaults."""
    found = []
    for transform in dataset.get('pipeline') or ():
        name = type_name(transform.get('type'))
        if any(word in name for word in ('Resize', 'Crop', 'Pad')):
            built = TRANSFORMS.build(transform)
            settings = {
                key: getattr(built, key)
                for key in _SETTINGS if hasattr(built, key)
            }
            found.append(_as_json(dict(transform, **settings, type=name)))
    return found


def _as_json(value: Any) -> Any:
    """Dicts, lists, numbers and texts; anything else as text."""
    if isinstance(value, dict):
        return {str(key): _as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


def trace(graph: ExportGraph) -> torch.export.ExportedProgram:
    """Program of a graph for all of its shapes."""
    with torch.no_grad(), warnings.catch_warnings():
        # That there is no Intel GPU.
        warnings.simplefilter('ignore')
        # Which kernel of oneDNN takes a convolution depends on its size.
        with torch.backends.mkldnn.flags(enabled=False):
            return torch.export.export(
                graph,
                graph.example_inputs(*_EXAMPLE),
                dynamic_shapes=graph.dynamic_shapes())


def write_graph(graph: ExportGraph,
                path: Path,
                format: str = 'onnx',
                opset: int = OPSETS[-1]) -> None:
    """Write one graph of a model in the form of :func:`prepare_for_export`.

    Args:
        graph (ExportGraph): Of :func:`build_graphs`.
        path (Path): File to write; holds the weights too.
        format (str): See :func:`export_model`. Defaults to 'onnx'.
        opset (int): Of ONNX. Defaults to 21.
    """
    write_program(trace(graph), graph, path, format, opset)


def write_program(program: torch.export.ExportedProgram,
                  graph: ExportGraph,
                  path: Path,
                  format: str = 'onnx',
                  opset: int = OPSETS[-1]) -> None:
    """Write a graph that :func:`trace` returned.

    Args:
        program (ExportedProgram): Stays as it is.
        graph (ExportGraph): The traced graph.
        path (Path): See :func:`write_graph`.
        format (str): See :func:`export_model`. Defaults to 'onnx'.
        opset (int): Of ONNX. Defaults to 21.
    """
    if format == 'torch':
        torch.export.save(program, path)
        return
    from .translations import translations
    with warnings.catch_warnings():
        # Of torch's own calls of what is deprecated.
        warnings.simplefilter('ignore')
        onnx_program = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=opset,
            custom_translation_table=translations(),
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            verbose=False)
    onnx_program.save(path, external_data=False)


def _numbers(values: Tensor) -> list[float]:
    """Without the digits that float32 adds."""
    return [round(value, 4) for value in values.flatten().tolist()]
