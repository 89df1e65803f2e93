"""The instruction sets that kernels are tested at."""

from __future__ import annotations

from pathlib import Path
from zlib import crc32

import pytest
from harness import levels

from kiln.backends.cpu.isa import Isa


@pytest.fixture(params=levels(), ids=lambda isa: isa.name)
def isa(request: pytest.FixtureRequest) -> Isa:
    """Each that this host can run."""
    return request.param


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The quick suite takes one instruction set for each test of the fixture's, the full suite all."""
    names = [isa.name for isa in levels()]
    for item in items:
        if item.path.parent != HERE or "isa" not in getattr(item, "fixturenames", ()):
            continue
        if any("isa" in mark.args[0] for mark in item.iter_markers("parametrize")):
            continue  # which takes them in turn
        name = item.callspec.params["isa"].name
        mine = names[crc32(item.originalname.encode()) % len(names)]
        if name in names and name != mine:
            item.add_marker(pytest.mark.slow)


HERE = Path(__file__).parent
