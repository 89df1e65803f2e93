"""Fixtures of the tests of captured programs."""

from __future__ import annotations

import pytest

from kiln.backends.cpu import program


@pytest.fixture
def programs(monkeypatch):
    """The programs that are made."""
    made = []
    real = program.CpuProgram.__init__
    monkeypatch.setattr(
        program.CpuProgram, "__init__", lambda self, *a: made.append(self) or real(self, *a)
    )
    return made
