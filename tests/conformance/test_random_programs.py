"""Random programs in Kiln's eager mode and in PyTorch's: values, gradients, updates, and what is refused.

`python -m tests.fuzz --torch --count N --seed S` runs as many as one likes, `--full` eighty.
"""

from __future__ import annotations

import pytest
from tests.fuzz.programs import program

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize(
    "first", [0, 10, 20, *(pytest.param(s, marks=pytest.mark.slow) for s in range(30, 80, 10))]
)
def test_random_programs_are_pytorchs(first):
    pytest.importorskip("torch")
    from tests.fuzz import peer

    found = {s: peer.check(program(s)) for s in range(first, first + 10)}
    assert {s: v.detail for s, v in found.items() if v.status == "differs"} == {}
    assert sum(v.status == "same" for v in found.values()) > 4


@pytest.mark.parametrize(
    "first", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in range(5, 40, 5))]
)
def test_random_programs_of_any_op_are_pytorchs(first):
    pytest.importorskip("torch")
    from tests.fuzz import peer

    found = {s: peer.check(program(s, wide=True)) for s in range(first, first + 5)}
    assert {s: v.detail for s, v in found.items() if v.status == "differs"} == {}


def test_the_gradient_of_drawn_numbers_is_zero_whatever_comes_back():
    """Seed 10002435: an infinite gradient."""
    torch = pytest.importorskip("torch")
    from tests.fuzz import peer

    peer.load()
    p = torch.tensor([0.5, 0.25], requires_grad=True)
    drawn = peer._Torch("kiln").bernoulli(p.sigmoid())
    (drawn * float("inf")).nansum().backward()
    assert p.grad.tolist() == [0, 0]
