"""Compiled programs beside fork, signals, other Python threads, themselves and the interpreter's end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

import kiln
from kiln import nn
from kiln.ops.registry import REGISTRY

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture(autouse=True)
def two_threads():
    before = kiln.get_num_threads()
    kiln.set_num_threads(2)
    yield
    kiln.set_num_threads(before)


def model(seed: int = 0) -> nn.Module:
    kiln.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 256), nn.Tanh(), nn.Linear(256, 256), nn.Tanh())


def script(text: str, *args: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    code = textwrap.dedent(text)
    return subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=timeout
    )


def child_ends_well(work) -> bool:
    """Whether a forked child does the work: it gives True, within half a minute."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        status = 1
        try:
            status = 0 if work() else 2
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1] == 0


@needs_fork
def test_a_forked_child_runs_programs_old_and_new():
    run, x = kiln.compile(model()), kiln.randn(128, 64)
    want = run(x).detach().numpy()

    def work():
        again = kiln.compile(model())(x).detach().numpy()
        return (run(x).detach().numpy() == want).all() and (again == want).all()

    assert child_ends_well(work)
    assert (run(x).detach().numpy() == want).all()


@needs_fork
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_forked_while_another_thread_runs_the_program_can_run_it():
    run, x = kiln.compile(model()), kiln.randn(512, 64)
    want = run(x).detach().numpy()
    over = threading.Event()

    def busy():
        while not over.is_set():
            run(x)

    t = threading.Thread(target=busy)
    t.start()
    try:
        for _ in range(5):
            assert child_ends_well(lambda: (run(x).detach().numpy() == want).all())
    finally:
        over.set()
        t.join()


@needs_fork
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_forked_while_another_thread_compiles_can_compile():
    x = kiln.randn(8, 64)
    over = threading.Event()

    def busy():
        n = 1
        while not over.is_set():
            n += 1
            kiln.compile(lambda x, n=n: (x * n).cos().sum(0))(kiln.randn(n, 64))

    t = threading.Thread(target=busy)
    t.start()
    try:
        for k in range(3):
            f = lambda x, k=k: (x + k).sin().sum(1)  # noqa: E731
            want = f(x).numpy()
            assert child_ends_well(
                lambda f=f, want=want: np.allclose(kiln.compile(f)(x).numpy(), want, atol=1e-5)
            )
    finally:
        over.set()
        t.join()


@pytest.mark.parametrize("method", [pytest.param("fork", marks=pytest.mark.slow), "spawn"])
def test_multiprocessing(method, tmp_path):
    import multiprocessing

    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system can't {method}")
    file = tmp_path / "program.py"
    file.write_text(
        textwrap.dedent("""
        import multiprocessing, sys
        import kiln

        f = kiln.compile(lambda x: (x @ x).tanh().sum())

        def work(n):
            return f(kiln.full((n, n), 0.01)).item()

        if __name__ == "__main__":
            kiln.set_num_threads(2)
            sizes = [32, 200]
            want = [work(n) for n in sizes]
            with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
                print(pool.map(work, sizes) == want)
        """)
    )
    out = subprocess.run(
        [sys.executable, str(file), method], capture_output=True, text=True, timeout=120
    )
    assert (out.stdout.strip(), out.returncode) == ("True", 0), out.stderr


def long_program(seconds: float):
    """A compiled step that adds 1 to a buffer and then loops for about so long."""
    state = kiln.zeros(3)

    @kiln.compile
    def step(x, n):
        state.add_(1.0)
        return kiln.while_loop(lambda i, v: i < n, lambda i, v: (i + 1, (v @ x).tanh()), (n * 0, x))

    x = kiln.full((128, 128), 1e-3)
    n = 64
    while True:  # the loop that takes so long on this machine
        start = time.perf_counter()
        step(x, kiln.tensor(n))
        if time.perf_counter() - start > seconds:
            break
        n *= 2
    state.zero_()
    return lambda: step(x, kiln.tensor(n)), state


def test_an_interrupt_in_a_long_program_arrives_after_it_and_leaves_whole_state():
    step, state = long_program(0.15)
    step()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGINT))
    try:
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            step()
            time.sleep(10)
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)
    assert state.tolist() == [2.0] * 3
    step()
    assert state.tolist() == [3.0] * 3


def host_op(monkeypatch, inside):
    """A function whose compiled form calls the host in its middle, where `inside` runs first."""
    op = REGISTRY["inv"]
    reference = op.run

    def run(*args):
        inside()
        return reference(*args)

    monkeypatch.setattr(op, "run", run)
    return lambda x: (x @ x.inverse()).sum(0)


def test_a_host_call_in_a_program_may_run_other_programs(monkeypatch):
    other, y = kiln.compile(model()), kiln.randn(256, 64)
    want, seen = other(y).detach().numpy(), []

    def inside():
        seen.append((other(y).detach().numpy() == want).all())

    run = kiln.compile(host_op(monkeypatch, inside))
    x = kiln.eye(96) * 2
    for _ in range(3):
        assert np.allclose(run(x).numpy(), 1.0)
    assert len(seen) >= 3
    assert all(seen)


def test_a_host_call_in_a_program_may_change_the_number_of_threads(monkeypatch):
    numbers = iter([1, 3, 2] * 10)
    run = kiln.compile(host_op(monkeypatch, lambda: kiln.set_num_threads(next(numbers))))
    x = kiln.eye(200) * 2
    for _ in range(5):
        assert np.allclose(run(x).numpy(), 1.0)


def test_first_calls_of_one_function_from_many_threads():
    run, xs = kiln.compile(model()), [kiln.randn(n, 64) for n in (1, 7, 64)]
    want = [model()(x).detach().numpy() for x in xs]
    got: list[list[np.ndarray]] = []

    def work():
        got.append([run(x).detach().numpy() for x in xs])

    team = [threading.Thread(target=work) for _ in range(6)]
    for t in team:
        t.start()
    for t in team:
        t.join()
    assert len(got) == 6
    for results in got:
        for a, b in zip(results, want, strict=True):
            assert np.allclose(a, b, rtol=1e-4, atol=1e-5)


def test_the_number_of_threads_may_change_at_any_moment():
    run, x = kiln.compile(model()), kiln.randn(300, 64)
    want = run(x).detach().numpy()
    wrong: list[object] = []

    def work():
        try:
            for _ in range(100):
                if not (run(x).detach().numpy() == want).all():
                    wrong.append("other bits")
        except Exception as e:
            wrong.append(e)

    team = [threading.Thread(target=work) for _ in range(3)]
    for t in team:
        t.start()
    n = 0
    while any(t.is_alive() for t in team):
        n += 1
        kiln.set_num_threads(1 + n % 4)
    for t in team:
        t.join()
    assert wrong == []


def test_the_interpreter_ends_while_a_daemon_thread_runs_programs():
    code = """
        import sys, threading, time
        import kiln
        kiln.set_num_threads(2)
        f = kiln.compile(lambda x: [x := (x @ x).tanh() for _ in range(20)][-1])
        x = kiln.full((256, 256), 1e-3)
        f(x)
        def work():
            while True:
                f(x)
        threading.Thread(target=work, daemon=True).start()
        time.sleep(float(sys.argv[1]))
        print("end")
    """
    for pause in ("0.01", "0.1"):
        out = script(code, pause)
        assert (out.returncode, out.stdout, out.stderr) == (0, "end\n", "")
