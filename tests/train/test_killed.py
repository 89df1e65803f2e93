"""kill -9 at random instants with saving every step: see killing.py."""

import pytest
from tests.train.killing import torture


def test_a_kill():
    assert torture(1, 3, seed=1)[0] == 1


@pytest.mark.slow
def test_fifty_kills():
    assert torture(50, 60)[0] == 50
