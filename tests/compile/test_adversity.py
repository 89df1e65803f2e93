"""What the machine may do to a program: no memory, a full disk, a process killed while it writes, a race."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import kiln
from kiln.backends.cpu import cache, fuse, loops
from kiln.config import context
from kiln.errors import KilnCacheWarning, KilnError, KilnMemoryError

HUGE = (10**6, 10**6, 10**3)

PROGRAM = """
import kiln, hashlib, sys
import kiln.nn.functional as F
kiln.manual_seed(0)
model = kiln.nn.Sequential(kiln.nn.Linear(20, 30), kiln.nn.GELU(), kiln.nn.LayerNorm(30), kiln.nn.Linear(30, 5))
opt = kiln.optim.Adam(model.parameters())
@kiln.compile
def step(x, y):
    opt.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    opt.step()
    return loss
loss = step(kiln.randn(8, 20), kiln.randint(0, 5, (8,)))
h = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters()))
print(loss.item(), h.hexdigest())
"""


def start(folder):
    env = {**os.environ, "KILN_CACHE_DIR": str(folder)}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PROGRAM], env=env,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def result(process):
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out


@pytest.mark.parametrize("compiled", [False, True])
def test_no_memory_for_a_result_is_a_clear_error(compiled):
    def huge(x):
        return x.reshape(-1, 1, 1).expand(*HUGE) + 1

    x = kiln.ones(10**6)
    with pytest.raises(KilnMemoryError, match=r"not enough memory(.|\n)*received:(.|\n)*help:"):
        (kiln.compile(huge) if compiled else huge)(x)
    with pytest.raises(RuntimeError):  # what PyTorch raises
        kiln.zeros(*HUGE)
    assert (x + 1).sum().item() == 2 * 10**6


def test_no_memory_between_kernels_leaves_state_alone():
    state = kiln.ones(10**6)

    @kiln.compile
    def step():
        state.add_(1)
        big = kiln.cumsum(state.reshape(-1, 1, 1).expand(*HUGE), 0)
        return kiln.cumsum(big, 1).sum()

    with pytest.raises(KilnMemoryError, match="GiB"):
        step()
    assert (state == 1).all()


def test_a_full_disk_costs_the_cache_and_nothing_else(tmp_path, monkeypatch):
    real = os.fdopen

    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *rest):
            self.file.close()

        def write(self, data):
            self.file.write(data[: len(data) // 2])
            raise OSError(28, "No space left on device")

    with context(cache_dir=str(tmp_path / "full")):
        monkeypatch.setattr(
            os, "fdopen", lambda fd, mode: Full(real(fd, mode)) if "w" in mode else real(fd, mode)
        )
        with pytest.warns(KilnCacheWarning, match="No space left"):
            y = kiln.compile(lambda x: x * 3.25 - 1)(kiln.ones(11))
        assert y.tolist() == [2.25] * 11
        assert not list((tmp_path / "full").iterdir())
        assert kiln.compile(lambda x: x * 4.25 - 1)(kiln.ones(11)).tolist() == [3.25] * 11


def test_a_kernel_that_llvm_rejects_is_told(monkeypatch):
    real = loops.emit

    def broken(nest, isa, **more):
        kernel = real(nest, isa, **more)
        return type(kernel)("define void @broken( {", "broken_kernel")

    monkeypatch.setattr(loops, "emit", broken)
    with context(cache_size_mb=0), pytest.raises(KilnError, match="LLVM IR was rejected"):
        kiln.compile(lambda x: x * 1.75 + 3)(kiln.ones(13))
    monkeypatch.undo()
    fuse._kernel.cache_clear()  # which has the broken one
    assert kiln.compile(lambda x: x * 1.75 + 3)(kiln.ones(13)).tolist() == [4.75] * 13


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What the program prints with a cache of its own, and how long that takes."""
    began = time.monotonic()
    return result(start(tmp_path_factory.mktemp("alone"))), time.monotonic() - began


def test_processes_that_race_for_one_cache_agree(tmp_path, alone, full):
    want, _ = alone
    count = 3 if full else 2
    assert [result(p) for p in [start(tmp_path / "shared") for _ in range(count)]] == [want] * count
    if full:
        assert result(start(tmp_path / "shared")) == want


def test_a_process_killed_while_it_writes_leaves_a_cache_that_works(tmp_path, alone, full):
    want, whole = alone
    for share in (0.6, 0.75, 0.9) if full else (0.75,):
        p = start(tmp_path / "shared")
        time.sleep(whole * share)
        p.send_signal(signal.SIGKILL)
        p.communicate()
    for _ in range(2 if full else 1):
        assert result(start(tmp_path / "shared")) == want


def test_a_directory_that_vanishes_is_made_again(tmp_path):
    folder = tmp_path / "cache"
    with context(cache_dir=str(folder)):
        kiln.compile(lambda x: x * 5.5)(kiln.ones(3))
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
        assert cache.default_cache().get("0" * 64) is None
        np.testing.assert_array_equal(kiln.compile(lambda x: x * 6.5)(kiln.ones(3)).numpy(), 6.5)
