"""Backbones and single operators in onnxruntime and as torch programs."""
import operator

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export.passes import move_to_device_pass
from mmhier.export import build_graphs, check_export
from mmhier.export.checking import TOLERANCE
from mmhier.export.exporting import write_graph
from mmhier.export.graphs import ExportGraph
from mmhier.export.preparing import AdaptiveAvgPool, prepare_for_export
from mmhier.export.translations import translations
from ..lanes import exports_sizes, fast_first
from ..test_models.test_contract import build, shallow

pytest.importorskip('onnxruntime')
pytestmark = exports_sizes
SIZES = [(64, 64), (97, 150), (203, 130)]


class OnlyBackbone(nn.Module):

    def __init__(self, family, arch, **kwargs):
        super().__init__()
        self.backbone = build(family, shallow(family, arch), **kwargs).eval()


def export_backbone(model, path, format='onnx'):
    graph, = build_graphs(prepare_for_export(model), 'backbone')
    write_graph(graph, path, format)


# Each stage of ACC-ViT takes ten seconds; all have the same parts.
@pytest.mark.parametrize(
    'family, arch, num_maps',
    fast_first([
        ('HVT', 's-4', 4),
        ('HATNet', 'tiny', 4),
        ('LIT', 'small', 4),
        ('LITv2', 'small', 4),
        ('ACCViT', 'femto', 1),
    ]))
def test_onnxruntime_gives_the_maps_at_sizes_unseen(family, arch, num_maps,
                                                    tmp_path):
    model = OnlyBackbone(family, arch, out_indices=range(num_maps))
    path = tmp_path / 'backbone.onnx'
    export_backbone(model, path)
    differences = check_export(model, path, 'backbone', SIZES)
    assert len(differences) == num_maps * len(SIZES)
    assert {d.output
            for d in differences
            } == {f'stride{stride}'
                  for stride in model.backbone.strides}
    assert max(d.error for d in differences) < TOLERANCE
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter.mul_(1.01)
    assert check_export(model, path, 'backbone', SIZES[:1])[0].error > 1e-3


def test_a_torch_program_gives_the_maps_at_sizes_unseen(tmp_path):
    model = OnlyBackbone('LIT', 'tiny', out_indices=(0, 1))
    path = tmp_path / 'backbone.pt2'
    export_backbone(model, path, 'torch')
    differences = check_export(model, path, 'backbone', SIZES)
    assert max(d.error for d in differences) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize('family, arch', [('HVT', 'ti-1'), ('HATNet', 'tiny'),
                                          ('LIT', 'tiny')])
def test_a_torch_program_moves_to_another_device(family, arch, tmp_path):
    """To one without storage, where a CPU tensor would be an error."""
    path = tmp_path / 'backbone.pt2'
    export_backbone(
        OnlyBackbone(family, arch, out_indices=(0, 1)), path, 'torch')
    program = move_to_device_pass(torch.export.load(path), 'meta')
    outs = program.module()(torch.zeros(2, 3, 96, 128, device='meta'))
    outs = outs.values() if isinstance(outs, dict) else outs
    assert [out.shape[2:] for out in outs] == [(24, 32), (12, 16)]
    assert {out.device.type for out in outs} == {'meta'}


class Operators(ExportGraph):
    """Operators that torch alone translates wrongly."""

    outputs = dict(divided=(), remainders=(), sums=(), means=())

    def forward(self, images):
        height = images.shape[2]
        divided = images.new_zeros(-(-height // 7))
        remainders = torch.arange(40) - 20
        return (divided, remainders % (height // 8),
                F.avg_pool2d(images, 3, 2, 1, divisor_override=2),
                F.avg_pool2d(images, (2, 3), count_include_pad=False))


@pytest.mark.parametrize('dropped', [None, *translations()])
def test_operators_need_their_own_translation(dropped, tmp_path, monkeypatch):
    import onnxruntime
    table = translations()
    table.pop(dropped, None)
    monkeypatch.setattr('mmhier.export.translations.translations',
                        lambda: table)
    graph, path = Operators(), tmp_path / 'operators.onnx'
    if dropped is torch.ops.aten.remainder.Scalar:
        with pytest.raises(torch.onnx.errors.OnnxExporterError):
            write_graph(graph, path)
        return
    write_graph(graph, path)
    session = onnxruntime.InferenceSession(path)
    images, = graph.example_inputs(1, 97, 64)
    results = session.run(None, dict(images=images.numpy()))
    same = [
        a.shape == tuple(b.shape)
        and torch.allclose(torch.from_numpy(a), b, atol=1e-5)
        for a, b in zip(results, graph(images))
    ]
    assert same == [
        dropped is not operator.floordiv, True, dropped
        is not torch.ops.aten.avg_pool2d.default, True
    ]


@pytest.mark.parametrize('size', [(1, 1), (2, 3), (6, 6), (5, 1)])
@pytest.mark.parametrize('height, width', [(12, 18), (7, 5), (3, 2), (1, 1)])
def test_adaptive_pooling_equals_torch(size, height, width):
    x = torch.randn(2, 3, height, width)
    torch.testing.assert_close(
        AdaptiveAvgPool(size)(x), F.adaptive_avg_pool2d(x, size))
