"""Whole programs, unmodified, under PyTorch and under the alias: the same lines to within rounding."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "programs"
NAMES = ("classify", "autoencode", "sequences", "attend", "residual", "policy", "seeded")


def lines(command: tuple[str, ...], names: tuple[str, ...] = NAMES) -> list[list[str]]:
    """What programs print, split into words."""
    done = subprocess.run(
        [sys.executable, *command, str(FOLDER / "everything.py"), *names], capture_output=True, text=True, check=False,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [line.split() for line in done.stdout.splitlines()]


ALIAS = ("-m", "kiln.run", "--torch")


@pytest.fixture(scope="module")
def ours():
    """What the programs print under the alias: all where PyTorch is there beside it, else some."""
    some = () if importlib.util.find_spec("torch") else ("autoencode", "sequences", "attend")
    return lines(ALIAS, some or NAMES)


@pytest.mark.peers
def test_programs_train_to_pytorchs_losses(ours):
    pytest.importorskip("torch", reason="PyTorch is not installed: extra [peers]")
    theirs = lines(())
    assert len(ours) == len(theirs) > 150
    for a, b in zip(ours, theirs, strict=True):
        assert len(a) == len(b), (a, b)
        for x, y in zip(a, b, strict=True):
            if "." in y and y.replace(".", "").replace("-", "").isdigit():
                assert float(x) == pytest.approx(float(y), rel=1e-3, abs=2e-5), (a, b)
            else:
                assert x == y, (a, b)


def test_programs_train(ours):
    losses: dict[str, list[float]] = {}
    for line in ours:
        if line[0] in ("vae", "gan", "waves", "LSTM", "GRU", "gpt"):
            losses.setdefault(line[0], []).append(float(line[-1]))
    assert len(losses) == 6
    assert losses["vae"][-1] < 0.99 * losses["vae"][0]
