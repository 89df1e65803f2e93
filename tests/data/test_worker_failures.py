"""Workers that raise, die, hang or send garbage: a clear error at once, and nothing left behind."""

import contextlib
import gc
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from multiprocessing import resource_tracker
from pathlib import Path

import pytest

import kiln
from kiln.data import DataLoader, Dataset, IterableDataset, TensorDataset

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


class Odd(Exception):
    """An error that no text alone makes."""

    def __init__(self, code, reason):
        super().__init__(code, reason)
        self.code = code

    def __reduce__(self):
        return Odd, self.args


class Does(Dataset):
    """Ten samples; the one with number 5 is what a function gives."""

    def __init__(self, what, n=10):
        self.what, self.n = what, n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        return self.what() if i == 5 else kiln.full((8192,), float(i))


class Unreadable:
    def __reduce__(self):
        return int, ("not a number",)


def throw(error):
    raise error


def local_error():
    class Hidden(LookupError):
        pass

    raise Hidden("found by nobody")


def kiln_error():
    kiln.zeros(2) @ kiln.zeros(3)


def open_files():
    return set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()


def shared_files():
    """What lies in shared memory by name, but for semaphores: tests beside this one may just be making them."""
    shm = Path("/dev/shm")
    return {f for f in shm.iterdir() if not f.name.startswith("sem.")} if shm.is_dir() else set()


@pytest.fixture(autouse=True)
def _nothing_is_left():
    resource_tracker.ensure_running()  # which stays
    before = open_files(), shared_files()
    yield
    gc.collect()
    assert not multiprocessing.active_children()
    assert len(open_files()) <= len(before[0])
    assert shared_files() <= before[1]


def load(what, **options):
    return list(DataLoader(Does(what), **{"num_workers": 2, "batch_size": 2, **options}))


@pytest.mark.parametrize(
    ("what", "cls", "text"),
    [
        (lambda: throw(ValueError("bad sample")), ValueError, "bad sample"),
        (lambda: throw(KeyError("name")), KeyError, "\n    raise"),
        (lambda: throw(Odd(7, "odd")), Odd, "odd"),
        (lambda: throw(UnicodeDecodeError("utf8", b"x", 0, 1, "no")), UnicodeDecodeError, "no"),
        (local_error, LookupError, "Caught Hidden"),
        (kiln_error, RuntimeError, "matmul"),
        (lambda: kiln.zeros(1)[3], IndexError, "index"),
        (lambda: throw(MemoryError()), MemoryError, "DataLoader worker process"),
    ],
)
def test_an_exception_comes_with_its_class_and_traceback(what, cls, text):
    with pytest.raises(cls) as caught:
        load(what)
    assert type(caught.value) is not Exception
    message = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert text in message
    assert "in DataLoader worker process 0" in message
    assert "Original Traceback" in message
    assert "__getitem__" in message


def test_loading_goes_on_after_an_exception():
    it = iter(DataLoader(Does(lambda: throw(ValueError("bad"))), num_workers=2, batch_size=2))
    seen = []
    while True:
        try:
            seen.append(next(it)[0, 0].item())
        except ValueError:
            seen.append("bad")
        except StopIteration:
            break
    assert seen == [0, 2, "bad", 6, 8]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_is_killed(number):
    with pytest.raises(
        RuntimeError, match=r"worker \(pid \d+\) is killed by signal: .*\nreceived: worker 0, exit"
    ):
        load(lambda: os.kill(os.getpid(), number))


@pytest.mark.parametrize("stop", [lambda: os._exit(3), lambda: sys.exit(3)])
def test_a_worker_that_exits(stop):
    with pytest.raises(
        RuntimeError, match=r"\(pid\(s\) \d+\) exited unexpectedly\nreceived: worker 0, exit code 3"
    ):
        load(stop)


def test_a_worker_that_is_killed_from_outside_while_others_wait():
    it = iter(DataLoader(TensorDataset(kiln.zeros(60, 9)), num_workers=2, persistent_workers=True))
    next(it)
    pids = [w.pid for w in it._workers]
    os.kill(pids[1], signal.SIGKILL)
    with pytest.raises(RuntimeError, match="killed by signal"):
        for _ in range(60):
            next(it)
    with pytest.raises(RuntimeError, match="killed by signal"):
        next(it)
    assert not {p.pid for p in multiprocessing.active_children()} & set(pids)


@pytest.mark.parametrize(
    ("what", "text"),
    [
        (lambda: lambda: 0, "can't be sent.*lambda"),
        (lambda: open(os.devnull), "can't be sent.*TextIOWrapper"),  # noqa: SIM115
        (Unreadable, "can't be read: ValueError: invalid literal"),
        (lambda: kiln.ones(8192, requires_grad=True) * 2, "history.*detach"),
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_garbage(what, text):
    with pytest.raises(RuntimeError) as caught:
        load(what, batch_size=None)
    assert re.search(text, str(caught.value), re.DOTALL), caught.value


def test_setting_up_fails():
    with pytest.raises(OSError, match=r"worker process 0(.|\n)*no such corpus"):
        load(None, worker_init_fn=lambda i: throw(OSError("no such corpus")))

    class Broken(IterableDataset):
        def __iter__(self):
            raise OSError("no such stream")

    with pytest.raises(OSError, match="no such stream"):
        list(DataLoader(Broken(), num_workers=1))


def test_a_dataset_that_cannot_be_sent_to_a_worker():
    with pytest.raises((AttributeError, pickle.PicklingError, TypeError)):
        load(lambda: 0, multiprocessing_context="spawn")


def test_a_worker_that_takes_too_long():
    with pytest.raises(RuntimeError, match=r"timed out after 0.3 seconds(.|\n)*help"):
        load(lambda: time.sleep(1), timeout=0.3)


def test_nothing_is_loaded_ahead_of_nothing():
    with pytest.raises(AssertionError, match="prefetch_factor must be greater than 0"):
        load(None, prefetch_factor=0)


def test_leaving_a_loop_early():
    for (batch,) in DataLoader(TensorDataset(kiln.zeros(100, 4096)), num_workers=2):
        assert batch.shape == (1, 4096)
        break


PARENT = """
import os, sys, time, kiln
from kiln.data import DataLoader, TensorDataset
loaders = [iter(DataLoader(TensorDataset(kiln.zeros(100, 8192)), num_workers=1)) for _ in range(2)]
for it in loaders:
    next(it)
print(*[w.pid for it in loaders for w in it._workers], flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="needs /proc")
def test_workers_end_with_a_killed_parent():
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", PARENT], stdout=subprocess.PIPE, text=True
    ) as parent:
        pids = [int(p) for p in parent.stdout.readline().split()]
        parent.kill()
    assert len(pids) == 2
    deadline = time.monotonic() + 20
    left = pids
    while left and time.monotonic() < deadline:
        left = [p for p in left if _runs(p)]
        time.sleep(0.02)
    assert not left


def _runs(pid):
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    return False


ENDING = """
import kiln
from kiln.data import DataLoader, TensorDataset
loader = DataLoader(TensorDataset(kiln.zeros(100, 8192)), num_workers=2, persistent_workers=True)
it = iter(loader)
next(it)
print("done")
"""


def test_a_program_ends_in_the_middle_of_an_epoch():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ENDING], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)
