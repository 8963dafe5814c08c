"""How exported files are compared."""
import pytest
from mmhier.export import checking
from mmhier.export.checking import TOLERANCE, check_export
from mmhier.export.graphs import ExportGraph


class Rounding(ExportGraph):
    """float32 loses most of the digits of what it computes."""
    outputs = dict(values=('batch', 3, 'height', 'width'))

    def forward(self, images):
        return (images + 1e5) - 1e5


@pytest.mark.parametrize('factor, equal', [(1, True), (1.001, False)])
def test_rounding_of_the_model_is_no_difference(factor, equal, tmp_path,
                                                monkeypatch):
    graph = Rounding()
    images, = graph.example_inputs(1, 80, 96)
    assert (graph(images) - images).abs().max() > 10 * TOLERANCE
    monkeypatch.setattr(checking, 'build_graphs', lambda *args: [graph])
    monkeypatch.setattr(checking, '_open_program',
                        lambda *args: lambda inputs: [factor * inputs[0]])
    (tmp_path / 'model.onnx').touch()
    difference, = check_export(
        graph, str(tmp_path / 'model.onnx'), sizes=[(80, 96)])
    assert (difference.error <= TOLERANCE) == equal
