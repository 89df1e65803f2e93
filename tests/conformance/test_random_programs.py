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
