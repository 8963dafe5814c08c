"""Parameters of tests by lane: `make test` runs unmarked tests."""
from collections.abc import Iterable
from typing import Any

import pytest
import torch

# torch 2.7 exports no graph for a range of sizes, and compiles again for maps
# of a single row of windows.
IS_OLDEST_TORCH = not callable(torch.export.Dim.DYNAMIC)
exports_sizes = pytest.mark.skipif(
    IS_OLDEST_TORCH, reason='exporting needs torch 2.8')


def slow(*values: Any) -> Any:
    """Values of a test in `make test-all`, as a row of parametrize."""
    return pytest.param(*values, marks=pytest.mark.slow)


def fast_first(rows: Iterable, num_fast: int = 1) -> list:
    """Rows of parametrize; `make test` runs the first ones alone."""
    return [
        row if i < num_fast else slow(
            *row) if isinstance(row, tuple) else slow(row)
        for i, row in enumerate(rows)
    ]
