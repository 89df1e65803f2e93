"""Modules behave as PyTorch's: the same scenarios give the same results."""

import pytest
import scenarios

import kiln
from kiln import nn

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore::FutureWarning")]


@pytest.mark.parametrize("scenario", scenarios.ALL, ids=lambda f: f.__name__)
def test_scenario(scenario):
    ours, theirs = scenario(kiln), scenario(torch)
    assert len(ours) == len(theirs)
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert a == b or repr(a).replace("kiln", "torch") == repr(b), i


def test_moves_of_a_module_do_not_call_each_other():
    class Index(nn.Module):
        def to(self, device):
            return self.cpu()

    assert isinstance(Index().to("cpu"), Index)


def test_attributes_of_odd_length_are_facts_of_a_captured_module():
    class Pair(tuple):
        __slots__ = ()

        def __len__(self):
            raise NotImplementedError

    layer = nn.Linear(2, 2)
    layer.irreps = Pair((1, 2))
    assert kiln.compile(layer)(kiln.ones(1, 2)).shape == (1, 2)
