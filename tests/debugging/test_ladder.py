"""The ladder of KILN_DEBUG: each level tells what the one below tells, and more."""

from __future__ import annotations

import re

import pytest

import kiln
from kiln.config import context

TOLD = (
    r"kernels in [\d.]+ s, \d+ compiled, the others from the disk cache; .*B between kernels", r"us +[\d.]+ GB/s +[\d.]+ GFLOP/s", r"region of <",
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


def test_what_is_told_names_ops_and_lines(capsys: pytest.CaptureFixture[str]) -> None:
    w, x = kiln.rand(8, 8, requires_grad=True), kiln.rand(4, 8)

    def step(x: kiln.Tensor) -> kiln.Tensor:
        loss = (x @ w).tanh().sum()  # forward
        loss.backward()
        return loss

    run = kiln.compile(step)
    with context(debug=4):
        run(x)
    said = capsys.readouterr().err
    assert "<matmul+…+tanh f32[4, 8]>" in said or "<matmul+tanh f32[4, 8]>" in said
    line = step.__code__.co_firstlineno + 1
    assert f"# gradient of test_ladder.py:{line} in step" in said
    assert "<kiln" not in said
    assert re.search(r"step after \w+: as before\n", said)
    assert re.search(r"us in these \d+ kernels", said)
