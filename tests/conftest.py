"""Each pytest worker gets one thread: small tensors gain nothing from more."""
import gc
import sys

import mmengine.config.config
import pytest
import torch
from mmengine.registry import DefaultScope
from yapf.yapflib import yapf_api

torch.set_num_threads(1)

_num_frozen_modules = 0


@pytest.fixture(autouse=True)
def default_scope_of_its_own():
    """A runner leaves its default scope behind, and other tests none."""
    yield
    DefaultScope._instance_dict.clear()


@pytest.fixture(autouse=True)
def imported_modules_left_to_themselves():
    """Each dataset of mmengine calls gc.collect(), which takes half a second
    where it looks at all that the imports have made."""
    yield
    global _num_frozen_modules
    if len(sys.modules) > _num_frozen_modules + 100:
        gc.collect()
        gc.freeze()
        _num_frozen_modules = len(sys.modules)


@pytest.fixture(autouse=True, scope='session')
def configs_written_without_layout():
    """Laying out the text of a config takes seconds in each run, and changes
    nothing else."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (yapf_api, mmengine.config.config):
            patch.setattr(module, 'FormatCode',
                          lambda text, **kwargs: (text, True), raising=False)
        yield
