"""The ladder of KILN_DEBUG: each level tells what the one below tells, and more."""

from __future__ import annotations

import re

import pytest

import kiln
from kiln.config import context

TOLD = (
    r"kernels: \d+ entries from the disk cache, \d+ compiled", r"us +[\d.]+ GB/s +[\d.]+ GFLOP/s", r"region of <",
    r"after capture:\ngraph\(", r"LLVM IR of", r"assembly of",
)  # fmt: skip


@pytest.mark.parametrize("level", range(7))
def test_each_level(level: int, capsys: pytest.CaptureFixture[str]) -> None:
    x = kiln.rand(3, 5)
    with context(debug=level):
        kiln.compile(lambda x: (x.sin() * 2 + 1).sum())(x)
    said = capsys.readouterr().err
    assert [bool(re.search(t, said)) for t in TOLD] == [n < level for n in range(len(TOLD))]
    assert bool(said) is bool(level)
