"""Outputs, gradients and arguments are those of compiled mmcv 2.3.6."""
import importlib
import inspect
import json

import numpy as np
import pytest
import torch
from mmhier.ops.operators import OPERATORS
from .compiled_numbers import FOLDER, NUMBERS


@pytest.mark.parametrize('name', NUMBERS)
def test_numbers_are_those_of_compiled_mmcv(ext, name):
    computed = list(NUMBERS[name]())
    with np.load(FOLDER / f'{name}.npz') as stored:
        expected = [torch.from_numpy(stored[key]) for key in stored.files]
    assert len(computed) == len(expected)
    for ours, theirs in zip(computed, expected):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        if theirs.is_floating_point():
            assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5)
        else:
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize('name', OPERATORS)
def test_arguments_are_those_of_compiled_mmcv(name):
    """mmcv's Python code passes most of them by name."""
    expected = json.loads((FOLDER / 'arguments.json').read_text())[name]
    if name == 'roi_align_rotated_backward':
        # mmcv lists other names than its code has, and passes no names.
        expected[:3] = ['grad_output', 'rois', 'grad_input']
    module = importlib.import_module(f'mmhier.ops.{OPERATORS[name]}')
    assert list(inspect.signature(getattr(module, name)).parameters) == expected
