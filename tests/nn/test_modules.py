"""Modules behave as PyTorch's: the same scenarios give the same results."""

import pytest
import scenarios

import kiln

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore::FutureWarning")]


@pytest.mark.parametrize("scenario", scenarios.ALL, ids=lambda f: f.__name__)
def test_scenario(scenario):
    ours, theirs = scenario(kiln), scenario(torch)
    assert len(ours) == len(theirs)
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert a == b or repr(a).replace("kiln", "torch") == repr(b), i
