"""The instruction sets that kernels are tested at."""

from __future__ import annotations

import pytest
from harness import levels

from kiln.backends.cpu.isa import Isa


@pytest.fixture(params=levels(), ids=lambda isa: isa.name)
def isa(request: pytest.FixtureRequest) -> Isa:
    """Each that this host can run."""
    return request.param
