"""Each pytest worker gets one thread: small tensors gain nothing from more."""
import pytest
import torch
from mmengine.registry import DefaultScope

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def default_scope_of_its_own():
    """A runner leaves its default scope behind, and other tests none."""
    yield
    DefaultScope._instance_dict.clear()
