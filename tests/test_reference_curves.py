"""Training and evaluation give the numbers recorded at commit 8c978f2.

``tests/record_reference.py`` recorded them and says what they are.
"""
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from tests import record_reference as reference

LENGTH = 20
# Relative tolerance after iteration 1, or MARGIN times the recorded effect of
# rounding where that is larger. Box selection amplifies rounding most.
TOLERANCE = 1e-2
MARGIN = 3


def require_recorded_environment() -> None:
    """Skip where rounding, or how pictures are drawn, may differ."""
    recorded = reference.read('record')['environment']
    here = reference.environment()
    differing = [
        f'{key} {here.get(key)} instead of {recorded.get(key)}'
        for key in sorted(recorded.keys() | here.keys())
        if here.get(key) != recorded.get(key)
    ]
    if differing:
        pytest.skip('recorded in another environment: '
                    f'{", ".join(differing)}')


@pytest.fixture(scope='module')
def data_root(tmp_path_factory) -> Path:
    """The shapes of the record."""
    root = tmp_path_factory.mktemp('data') / 'shapes'
    if reference.draw_data(root) != reference.read('record')['data_sha256']:
        require_recorded_environment()
        pytest.fail('the generated shapes are not those of the record')
    return root


@pytest.mark.slow
@pytest.mark.parametrize('config', reference.CONFIGS)
def test_curves(config, data_root, tmp_path):
    require_recorded_environment()
    recorded = reference.read(config)
    curves = reference.train_curves(config, data_root, tmp_path)
    assert curves.keys() == recorded.keys()
    for name, record in recorded.items():
        expected = np.array(record['values'])
        tolerances = np.maximum(TOLERANCE,
                                MARGIN * np.array(record['rounding']))
        tolerances[0] = 1e-4 if name == 'grad_norm' else 1e-5
        assert len(curves[name]) == len(expected) == LENGTH
        changes = np.abs(curves[name] / expected - 1)
        # A nan is too large, too.
        too_large = np.flatnonzero(~(changes <= tolerances))
        assert not too_large.size, (
            f'{name} differs from iteration {too_large[0] + 1} on: '
            f'{curves[name][too_large[0]]} instead of '
            f'{expected[too_large[0]]}')


@pytest.mark.parametrize('backend', reference.BACKENDS)
def test_coco_metric(backend, data_root):
    if backend == 'faster' and find_spec('faster_coco_eval') is None:
        pytest.skip('faster-coco-eval is not installed')
    metrics = reference.coco_metrics(data_root, backend)
    assert metrics == pytest.approx(
        reference.read('coco'), rel=0, abs=1e-6, nan_ok=True)


def test_iou_metric(data_root):
    metrics = reference.iou_metrics(data_root)
    recorded = reference.read('iou')
    assert metrics.keys() == recorded.keys()
    for name, expected in recorded.items():
        assert metrics[name] == pytest.approx(expected, rel=0, abs=1e-6)
