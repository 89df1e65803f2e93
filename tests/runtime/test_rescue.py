"""Threads that lost their CPU get one back: which are moved, where to, and which are left alone."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import kiln
from kiln.backends.cpu import jit
from kiln.backends.cpu.isa import host_isa
from kiln.runtime import claiming, rescue

TEXT = rescue.text()
pytestmark = pytest.mark.skipif(TEXT is None, reason="needs Linux")


class Native:
    """A pool block and a roster of `workers`, and this system's functions on them."""

    def __init__(self, workers: int):
        lookup = jit.build([claiming.located(TEXT or "")], host_isa())
        self.block = np.zeros(claiming.POOL_BYTES // 8, np.int64)
        self.roster = np.zeros((workers + 1, 8), np.int64)
        self.roster[0, 0] = workers
        self.set("ROSTER", self.roster.ctypes.data)
        void = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
        self.rescue, self.restore, self.relieve = (
            void(lookup(f"kiln_{name}")) for name in ("rescue", "restore", "relieve")
        )
        self.thread_id = ctypes.CFUNCTYPE(ctypes.c_int64)(lookup("kiln_thread_id"))

    def set(self, name: str, value: int) -> None:
        self.block[claiming.FIELDS[name] // 8] = value

    def get(self, name: str) -> int:
        return int(self.block[claiming.FIELDS[name] // 8])

    def worker(self, number: int, tid: int, holding: bool = True) -> None:
        self.roster[number, claiming.SLOT["TID"] // 8] = tid
        self.roster[number, claiming.SLOT["HOLDING"] // 8] = holding

    def guests(self) -> list[int]:
        return self.roster[1:, claiming.SLOT["GUEST"] // 8].tolist()

    def on(self, f, *args) -> None:
        f(self.block.ctypes.data, *args)


class Waiting:
    """A thread that stands still until the `with` block ends; gives its number."""

    def __init__(self):
        self.over, self.known = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self.work)

    def work(self) -> None:
        self.tid = threading.get_native_id()
        self.known.set()
        self.over.wait()

    def __enter__(self) -> int:
        self.thread.start()
        self.known.wait()
        return self.tid

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()


@pytest.fixture
def pinned():
    """This thread on one CPU, so that the test knows which; gives it and all that there are."""
    cpus = os.sched_getaffinity(0)
    here = min(cpus)
    os.sched_setaffinity(0, {here})
    yield here, cpus
    os.sched_setaffinity(0, cpus)


def test_a_thread_knows_its_number():
    assert Native(1).thread_id() == threading.get_native_id()


def test_workers_that_hold_a_task_and_stand_still_come_here(pinned):
    here, cpus = pinned
    native = Native(3)
    with Waiting() as holds, Waiting() as idle:
        for tid in (holds, idle):
            os.sched_setaffinity(tid, cpus)
        native.worker(1, holds)
        native.worker(2, idle, holding=False)
        native.worker(3, 0)  # one that is gone
        native.on(native.rescue)
        assert native.guests() == [1, 0, 0]
        assert native.get("RESCUED") == 1
        assert os.sched_getaffinity(holds) == {here}
        assert os.sched_getaffinity(idle) == cpus
        os.sched_setaffinity(0, cpus)
        native.on(native.restore)
        assert native.guests() == [0, 0, 0]
        assert native.get("RESCUED") == 0
        assert os.sched_getaffinity(idle) == cpus
        away = os.sched_getaffinity(holds)
        assert away <= cpus
        assert len(cpus) == 1 or len(away) == len(cpus) - 1
    assert os.sched_getaffinity(0) == cpus


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs 2 CPUs"
)
def test_an_idle_worker_leaves_its_cpu_to_a_caller_that_stands_still():
    cpus = os.sched_getaffinity(0)
    native, found = Native(1), []

    def worker(caller: int) -> None:
        here = min(cpus)
        os.sched_setaffinity(0, {here})
        native.set("CALLER", caller)
        native.on(native.relieve)
        found.append(os.sched_getaffinity(0) == cpus - {here})

    with Waiting() as caller:
        t = threading.Thread(target=worker, args=(caller,))
        t.start()
        t.join()
        assert found == [True]
        assert os.sched_getaffinity(caller) == cpus


def test_who_runs_is_left_alone():
    cpus = os.sched_getaffinity(0)
    native = Native(1)
    native.worker(1, threading.get_native_id())  # this very thread, which looks, runs
    native.set("CALLER", threading.get_native_id())
    native.on(native.rescue)
    native.on(native.relieve)
    assert native.guests() == [0]
    assert native.get("RESCUED") == 0
    assert os.sched_getaffinity(0) == cpus


def test_without_a_caller_a_worker_stays(pinned):
    here, _ = pinned
    native = Native(1)
    native.on(native.relieve)
    assert os.sched_getaffinity(0) == {here}


def test_a_step_leaves_the_callers_cpus_as_they_were():
    cpus, before = os.sched_getaffinity(0), kiln.get_num_threads()
    kiln.set_num_threads(2)
    run, x = kiln.compile(lambda x: (x @ x).tanh() @ x), kiln.full((384, 384), 1e-3)
    want = run(x).numpy()
    hog = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        for _ in range(300):
            got = run(x).numpy()
    finally:
        hog.kill()
        hog.wait()
        kiln.set_num_threads(before)
    assert (got == want).all()
    assert os.sched_getaffinity(0) == cpus
