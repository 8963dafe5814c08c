"""Maps whose gradients come together."""
import torch
from mmhier.models.layers import tie_gradients


def test_unused_maps_get_zeros():
    used, unused, frozen = (
        torch.ones(2, requires_grad=grad) for grad in (True, True, False))
    maps = tie_gradients((used * 2, unused * 2, frozen))
    assert [m.requires_grad for m in maps] == [True, True, False]
    maps[0].sum().backward()
    assert used.grad.tolist() == [2, 2] and unused.grad.tolist() == [0, 0]


def test_values_that_are_not_finite_reach_no_other_map():
    x, y = (torch.ones(1, requires_grad=True) for _ in range(2))
    tied_x, tied_y = tie_gradients((x * torch.inf, y * 3))
    assert tied_x.item() == torch.inf and tied_y.item() == 3
    tied_y.backward()
    assert y.grad.item() == 3


def test_maps_may_be_changed_in_place():
    x = torch.tensor([-1., 2.], requires_grad=True)
    tied, _ = tie_gradients((x + 0, x + 0))
    tied.relu_().sum().backward()
    assert x.grad.tolist() == [0, 1]


def test_maps_keep_their_memory():
    maps = torch.ones(1, requires_grad=True) + 0, torch.ones(1)
    assert [m.data_ptr()
            for m in tie_gradients(maps)] == [m.data_ptr() for m in maps]
    with torch.no_grad():
        assert tie_gradients(maps) is maps
