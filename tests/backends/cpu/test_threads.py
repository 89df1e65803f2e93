"""The claiming pool: every task once, from any thread, after fork, at any size."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from kiln.backends.cpu import jit
from kiln.backends.cpu.isa import host_isa
from kiln.runtime import claiming, threads

# counts[task] += 1, after some work that depends on the task
KERNEL = """
define void @test_threads_count(ptr %args, i64 %task, i64 %place) {
entry:
  %counts = load ptr, ptr %args
  %p = getelementptr i64, ptr %counts, i64 %task
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %j, %loop ]
  %v = load volatile i64, ptr %p
  store volatile i64 %v, ptr %p
  %j = add i64 %i, 1
  %c = icmp slt i64 %j, 50
  br i1 %c, label %loop, label %done
done:
  %w = load i64, ptr %p
  %x = add i64 %w, 1
  store i64 %x, ptr %p
  ret void
}
"""


@pytest.fixture(autouse=True)
def restore_threads():
    before = threads.get_num_threads()
    yield
    threads.set_num_threads(before)


@pytest.fixture(scope="module")
def kernel() -> int:
    return jit.build([KERNEL], host_isa())("test_threads_count")


class Plan:
    def __init__(self, kernel: int, ntasks: list[int]) -> None:
        self.counts = [np.zeros(max(n, 1), np.int64) for n in ntasks]
        self.blocks = [np.array([c.ctypes.data], np.int64) for c in self.counts]
        rows = [[kernel, b.ctypes.data, n] for b, n in zip(self.blocks, ntasks, strict=True)]
        self.table = np.array(rows, np.int64)

    def run(self) -> None:
        threads.run_plan(self.table.ctypes.data, len(self.table))

    def check(self, times: int) -> None:
        for counts in self.counts:
            assert (counts == times).all()


@pytest.mark.parametrize("n", [1, 2, 5])
def test_each_task_runs_once(kernel, n):
    threads.set_num_threads(n)
    plan = Plan(kernel, [1, 2, 3, 64, 1000, 70_000])
    for _ in range(5):
        plan.run()
    plan.check(5)


# taken[place] is 1 while a task is there; clashes counts those that found it taken, visits who came
PLACE = """
define void @test_threads_place(ptr %args, i64 %task, i64 %place) {
entry:
  %taken = load ptr, ptr %args
  %clashes.p = getelementptr ptr, ptr %args, i64 1
  %clashes = load ptr, ptr %clashes.p
  %visits.p = getelementptr ptr, ptr %args, i64 2
  %visits = load ptr, ptr %visits.p
  %p = getelementptr i64, ptr %taken, i64 %place
  %v = getelementptr i64, ptr %visits, i64 %place
  %old = atomicrmw add ptr %p, i64 1 seq_cst
  %new = atomicrmw add ptr %clashes, i64 %old seq_cst
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %j, %loop ]
  %w = load volatile i64, ptr %p
  %j = add i64 %i, 1
  %c = icmp slt i64 %j, 300
  br i1 %c, label %loop, label %done
done:
  %x = atomicrmw add ptr %v, i64 1 seq_cst
  %y = atomicrmw sub ptr %p, i64 1 seq_cst
  ret void
}
"""


# places[task] = place + 1, after some work
WHERE = """
define void @test_threads_where(ptr %args, i64 %task, i64 %place) {
entry:
  %places = load ptr, ptr %args
  %p = getelementptr i64, ptr %places, i64 %task
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %j, %loop ]
  %w = load volatile i64, ptr %p
  %j = add i64 %i, 1
  %c = icmp slt i64 %j, 3000
  br i1 %c, label %loop, label %done
done:
  %one = add i64 %place, 1
  store i64 %one, ptr %p
  ret void
}
"""


def test_the_caller_takes_tasks_from_the_first_and_a_worker_from_the_last():
    """Regions over the same memory find it in the cache of the core that had it."""
    threads.set_num_threads(2)
    address = jit.build([WHERE], host_isa())("test_threads_where")
    places, n, shared = np.zeros(64, np.int64), 64, 0
    block = np.array([places.ctypes.data], np.int64)
    table = np.array([[address, block.ctypes.data, n]], np.int64)
    deadline = time.monotonic() + 20
    while shared < 20 and time.monotonic() < deadline:
        places[:] = 0
        threads.run_plan(table.ctypes.data, 1)
        k = np.count_nonzero(places == 1)  # the caller's
        assert (places[:k] == 1).all()
        assert (places[k:] == n).all()
        shared += 0 < k < n
    assert shared == 20


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("ntasks", [3, 200, 70_000])
def test_tasks_that_run_at_once_have_places_of_their_own(count, ntasks):
    threads.set_num_threads(count)
    address = jit.build([PLACE], host_isa())("test_threads_place")
    taken, visits = np.zeros(ntasks + 64, np.int64), np.zeros(ntasks + 64, np.int64)
    clashes = np.zeros(1, np.int64)
    block = np.array([a.ctypes.data for a in (taken, clashes, visits)], np.int64)
    table = np.array([[address, block.ctypes.data, ntasks]] * 20, np.int64)
    threads.run_plan(table.ctypes.data, len(table))
    assert not clashes.any()
    assert not taken.any()
    assert visits.sum() == 20 * ntasks
    assert not visits[ntasks:].any()  # places are below the number of tasks
    # a thread stays in its place until a region's tasks are given out
    batches = -(-ntasks // 65_535)
    assert np.count_nonzero(visits) <= 20 * batches * count
    if count == 1:
        assert visits[0] == 20 * ntasks


def test_many_regions_with_pauses_between(kernel):
    threads.set_num_threads(3)
    plan = Plan(kernel, [8] * 20)
    for i in range(100):
        plan.run()
        if i % 25 == 0:
            time.sleep(0.01)  # long enough for the workers to go to sleep
    plan.check(100)


def test_python_threads_share_the_pool(kernel):
    threads.set_num_threads(2)
    plans = [Plan(kernel, [16] * 10) for _ in range(4)]

    def work(plan: Plan) -> None:
        for _ in range(50):
            plan.run()

    team = [threading.Thread(target=work, args=(p,)) for p in plans]
    for t in team:
        t.start()
    for t in team:
        t.join()
    for p in plans:
        p.check(50)


def test_host_callback_in_a_plan_may_run_a_plan(kernel):
    inner = Plan(kernel, [4, 4])
    seen = []

    @ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
    def host(args, task, place):
        inner.run()
        seen.append((task, place, threading.current_thread().name))

    address = ctypes.cast(host, ctypes.c_void_p).value
    table = np.array([[address, 0, 1], [address, 0, 0]], np.int64)
    threads.run_plan(table.ctypes.data, 2)
    assert [s[:2] for s in seen] == [(0, 0), (0, 0)]
    assert {s[2] for s in seen} == {threading.current_thread().name}
    inner.check(2)


def test_kiln_parallel_nested_in_a_task_is_serial_and_complete(kernel):
    text = """
    declare void @kiln_parallel(ptr, ptr, ptr, i64)
    define void @test_threads_nest(ptr %args, i64 %task, i64 %place) {
      %pool = load ptr, ptr %args
      %kp = getelementptr ptr, ptr %args, i64 1
      %kernel = load ptr, ptr %kp
      %bp = getelementptr ptr, ptr %args, i64 2
      %blocks = load ptr, ptr %bp
      %block = getelementptr ptr, ptr %blocks, i64 %task
      call void @kiln_parallel(ptr %pool, ptr %kernel, ptr %block, i64 8)
      ret void
    }
    """
    pool = threads.pool_address()
    address = jit.build([text], host_isa())("test_threads_nest")
    counts = np.zeros((6, 8), np.int64)
    blocks = np.array([row.ctypes.data for row in counts], np.int64)
    args = np.array([pool, kernel, blocks.ctypes.data], np.int64)
    table = np.array([[address, args.ctypes.data, 6]], np.int64)
    for _ in range(10):
        threads.run_plan(table.ctypes.data, 1)
    assert (counts == 10).all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fork_after_use(kernel):
    threads.set_num_threads(2)
    plan = Plan(kernel, [16] * 4)
    plan.run()
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)  # a hang fails the parent's check below
        plan.run()
        ok = all((c == 2).all() for c in plan.counts)
        os._exit(0 if ok else 1)
    _, status = os.waitpid(pid, 0)
    assert status == 0
    plan.run()
    plan.check(2)


def test_thread_count_is_checked_and_read_from_the_environment():
    with pytest.raises(ValueError, match="at least one thread"):
        threads.set_num_threads(0)
    code = "from kiln.runtime import threads; print(threads.get_num_threads())"
    env = {**os.environ, "KILN_NUM_THREADS": "7"}
    out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert out.stdout.strip() == "7"


def test_interpreter_exits_cleanly_with_workers_spinning_or_asleep():
    code = (
        "import numpy as np, time, sys\n"
        "from kiln.runtime import threads\n"
        "threads.set_num_threads(3)\n"
        "t = np.zeros((1, 3), np.int64)\n"
        "threads.run_plan(t.ctypes.data, 0)\n"
        "time.sleep(float(sys.argv[1]))\n"
    )
    for pause in ("0", "0.05"):
        out = subprocess.run(
            [sys.executable, "-c", code, pause], capture_output=True, text=True, timeout=30
        )
        assert (out.returncode, out.stderr) == (0, "")


def test_an_idle_pool_burns_no_core(kernel):
    threads.set_num_threads(3)
    plan = Plan(kernel, [64])
    plan.run()
    start = time.process_time()
    for _ in range(4):
        time.sleep(0.25)
        plan.run()
    # workers look around for a while after each plan and then sleep
    assert time.process_time() - start < 0.5
    plan.check(5)


def test_light_regions_wake_sleepers_each_eighth_time(kernel):
    """Until then the caller runs them alone, and `ready` leaves who sleeps alone; a region that isn't light wakes them."""
    threads.set_num_threads(2)
    pool, light, heavy = threads._pool, Plan(kernel, [8]), Plan(kernel, [8])
    light.table[0, 2] += claiming.LIGHT

    def run(plan: Plan) -> None:
        pool.run(pool.address, plan.table.ctypes.data, 0, 1)

    def asleep() -> bool:
        until = time.monotonic() + 5
        while not pool.sleepers and time.monotonic() < until:
            time.sleep(0.005)
        return bool(pool.sleepers)

    heavy.run()
    pool.field("MISSED").value = 0
    for _ in range(7):
        assert asleep()
        threads.ready(light=True)
        run(light)
        assert pool.sleepers
    run(light)
    assert not pool.sleepers
    assert asleep()
    run(heavy)
    assert not pool.sleepers
    light.check(8)
    heavy.check(2)


def test_an_interrupt_arrives_and_the_pool_still_serves(kernel):
    threads.set_num_threads(2)
    plan = Plan(kernel, [1000] * 200)
    # a process started in the background may have been told to ignore interrupts
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            while True:
                plan.run()
    finally:
        signal.signal(signal.SIGINT, before)
    timer.join()
    runs = int(plan.counts[0][0])
    assert runs > 0
    plan.run()
    plan.check(runs + 1)


def test_the_number_of_threads_changes_while_others_run_plans(kernel):
    plans = [Plan(kernel, [3, 40, 7] * 5) for _ in range(3)]

    def work(plan: Plan) -> None:
        for _ in range(60):
            plan.run()

    team = [threading.Thread(target=work, args=(p,)) for p in plans]
    for t in team:
        t.start()
    for n in (1, 3, 2, 4, 1, 2) * 3:
        threads.set_num_threads(n)
        assert threads.get_num_threads() == n
    for t in team:
        t.join()
    for p in plans:
        p.check(60)


def test_beside_busy_processes_every_task_still_runs_once(kernel):
    threads.set_num_threads(2)
    plan = Plan(kernel, [64] * 50)
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        until, runs = time.monotonic() + 1.0, 0
        while time.monotonic() < until:
            plan.run()
            runs += 1
    finally:
        for h in hogs:
            h.kill()
            h.wait()
    plan.check(runs)


@pytest.mark.parametrize("n", [2.0, "2", True, None])
def test_a_number_of_threads_is_an_int(n):
    with pytest.raises(TypeError, match="set_num_threads"):
        threads.set_num_threads(n)


@pytest.mark.parametrize("taken", [0, 3])
def test_a_worker_does_not_sleep_while_tasks_wait(taken):
    """A region that is published before a worker says that it sleeps wakes nobody: it has to look itself."""
    pool, calls = threads._Pool(), []
    # goes to sleep once, then leaves
    pool._worker = lambda *args: calls.append(1) or len(calls) > 1
    pool.field("WORD").value = 3 << 16 | taken  # of three tasks so many are claimed
    worker = threading.Thread(target=pool._serve, args=(0, pool._roster() + 64), daemon=True)
    worker.start()
    worker.join(2 if taken == 0 else 0.2)
    assert worker.is_alive() == (taken == 3)  # where none waits it sleeps until it is woken
    pool.wake()
    worker.join(2)
    assert not worker.is_alive()
    assert len(calls) == 2
