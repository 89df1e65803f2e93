"""The threads that run compiled programs, and the call that runs a whole plan.

Workers are Python threads inside one long ctypes call (so without the GIL) into the native side, `claiming`.
They spin for a while when idle, then return to Python and sleep on a lock, which works alike on every
system.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import ctypes
import os
import threading
from typing import Any

from kiln.config import config
from kiln.errors import KilnTypeError, KilnValueError, describe

from . import claiming, rescue


class _Pool:
    """The pool block, the threads that serve it and the native entry points."""

    def __init__(self) -> None:
        self._block, self.address = _lines(claiming.POOL_BYTES)
        self._rosters: dict[int, Any] = {}  # kept: a caller may still read one that was replaced
        self.threads: list[threading.Thread] = []
        self.sleepers: list[tuple[Any, int]] = []  # (lock slept on, native thread id)
        self.lock = threading.Lock()
        self.size = _default_threads()
        self.started = False
        self.run: Any = None
        self._worker: Any = None
        self._wake_c = ctypes.CFUNCTYPE(None)(self.wake)

    def field(self, name: str) -> ctypes.c_int64:
        """A view of one 64-bit field of the pool block."""
        return ctypes.c_int64.from_address(self.address + claiming.FIELDS[name])

    def link(self) -> None:
        """Compile the native side (once a process) and fill in the functions that it calls."""
        if self.run is not None:
            return
        from kiln.backends.cpu import jit
        from kiln.backends.cpu.isa import make_isa

        isa = make_isa()
        helpers = rescue.text()
        texts = [claiming.text(isa.name), *([claiming.located(helpers)] if helpers else [])]
        lookup = jit.build(texts, isa)
        word, pointer = ctypes.c_int64, ctypes.c_void_p
        self._worker = ctypes.CFUNCTYPE(word, pointer, pointer, word, word, word)(
            lookup("kiln_worker")
        )
        self.field("WAKE").value = ctypes.cast(self._wake_c, pointer).value or 0
        self.field("YIELD").value = _yield_address()
        for name in rescue.FUNCTIONS if helpers else ():
            self.field(name).value = lookup(f"kiln_{name.lower()}")
        self.run = ctypes.CFUNCTYPE(word, pointer, pointer, word, word)(lookup("kiln_run"))

    def start(self) -> None:
        """Start the workers that ``size`` asks for; called before the first parallel plan."""
        with self.lock:
            if self.started:
                return
            self.link()
            epoch, roster = self.field("STOP").value, self._roster()
            for number in range(1, self.size):
                thread = threading.Thread(
                    target=self._serve, args=(epoch, roster + 64 * number), name=f"kiln-{number}",
                    daemon=True,
                )  # fmt: skip
                try:
                    thread.start()
                except RuntimeError:  # no more threads, or the interpreter is shutting down
                    break
                self.threads.append(thread)
            self.field("WORKERS").value = len(self.threads)
            self.started = True

    def _roster(self) -> int:
        """The address of the roster for as many workers as `size` asks for, in use from now on."""
        workers = self.size - 1
        if workers not in self._rosters:
            self._rosters[workers] = _lines(64 * self.size)
        _, address = self._rosters[workers]
        ctypes.c_int64.from_address(address).value = workers
        self.field("ROSTER").value = address
        return address

    def stop(self) -> None:
        """Send the workers home; tasks already claimed are finished by whoever claimed them."""
        with self.lock:
            self.field("WORKERS").value = 0
            self.field("STOP").value += 1
            threads, self.threads = self.threads, []
            self.started = False
        self.wake()
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(timeout=1.0)

    def wake(self) -> None:
        """Wake every sleeping worker (also called from native code, through ctypes)."""
        # Cleared before the list is emptied: a worker appends first and sets the word after,
        # so the word is never 0 while a worker sleeps on the list.
        self.field("ASLEEP").value = 0
        elsewhere = _other_cpus() if self.sleepers else None
        while self.sleepers:
            try:
                bed, thread = self.sleepers.pop()
            except IndexError:
                return
            if elsewhere:
                _move([thread], elsewhere)
            bed.release()

    def reset_after_fork(self) -> None:
        """Forget the threads, which a forked child doesn't have; they start again on demand."""
        self.lock = threading.Lock()
        self.threads, self.sleepers, self.started = [], [], False
        for name in ("WORD", "DONE", "BUSY", "ASLEEP", "ACTIVE", "WORKERS", "CALLER", "RESCUED"):
            self.field(name).value = 0
        for workers, (_, address) in self._rosters.items():
            ctypes.memset(address, 0, 64 * (workers + 1))

    def _serve(self, epoch: int, slot: int) -> None:
        bed = _thread.allocate_lock()
        bed.acquire()
        thread = threading.get_native_id()
        me = ctypes.c_int64.from_address(slot + claiming.SLOT["TID"])
        asleep, stop, word = self.field("ASLEEP"), self.field("STOP"), self.field("WORD")
        me.value = thread
        ctypes.c_int64.from_address(slot + claiming.SLOT["GUEST"]).value = 0
        while not self._worker(self.address, slot, epoch, claiming.SPIN_IDLE, claiming.SPIN_ACTIVE):
            self.sleepers.append((bed, thread))
            asleep.value = 1
            if stop.value != epoch:
                break
            now = word.value
            if now & 0xFFFF < now >> 16 & 0xFFFF:
                self.wake()  # published while this thread waited for the GIL, to nobody asleep
            bed.acquire()
        if me.value == thread:
            me.value = 0


def _lines(size: int) -> tuple[Any, int]:
    """Zeroed memory and its address, at the beginning of a cache line."""
    raw = ctypes.create_string_buffer(size + 64)
    return raw, (ctypes.addressof(raw) + 63) & ~63


def run_plan(address: int, n: int, first: int = 0) -> int:
    """Run the ``n`` plan entries at ``address`` from entry ``first`` on, in one native call without the GIL.

    An entry is three 64-bit words: kernel address, argument block address, ntasks. A kernel is
    ``void kernel(ptr args, i64 task, i64 place)`` (Note [Places]); with ntasks 0 or 1 it runs on this thread
    (host callbacks must), else its tasks are spread over the pool (Note [Light regions]). With ntasks -1 the entry is a
    jump, ``i64 jump(ptr args)``: it gives how many entries to skip, and a negative number goes back.
    An entry without a kernel is a stop: where its second word is 0, or the address of a byte that is
    not 0. Returns 0, or the number of the entry after the stop that it came to.
    """
    ready()
    return _pool.run(_pool.address, address, first, n)


def jump(address: int, args: int) -> int:
    """What a jump of a plan gives: how many entries to skip."""
    return ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)(address)(args)


def ready(light: bool = False) -> None:
    """Have the workers started and, unless what is to come is Note [Light regions], awake."""
    if not _pool.started:
        _pool.start()
    if _pool.sleepers and not light:
        _pool.wake()


def pool_address() -> int:
    """Address of the pool block, the first argument of kiln_run and kiln_parallel, which are linked then."""
    _pool.link()
    return _pool.address


def set_num_threads(n: int) -> None:
    """Use ``n`` threads, the caller included, for compiled programs from now on.

    Results don't depend on it. Raises TypeError for what is no int, ValueError for n < 1.
    """
    if not isinstance(n, int) or isinstance(n, bool):
        raise KilnTypeError("set_num_threads", "expected an int", describe(n), "pass 1, 2, …")
    if n < 1:
        raise KilnValueError(
            "set_num_threads", "at least one thread is needed", n,
            "pass 1 to run everything on the calling thread",
        )  # fmt: skip
    if n != _pool.size:
        _pool.stop()
        _pool.size = n


def get_num_threads() -> int:
    """Number of threads, the caller included, that compiled programs may use."""
    return _pool.size


def _default_threads() -> int:
    if config.num_threads > 0:
        return config.num_threads
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _other_cpus() -> set[int] | None:
    """The CPUs that the calling thread may use but isn't on, or None where that can't be told.

    Linux likes to wake a thread on its waker's CPU, where the two then take turns for
    milliseconds while other CPUs idle (seen on kernel 6.18); so workers are woken elsewhere.
    """
    if _getcpu is None or not hasattr(os, "sched_setaffinity"):
        return None
    return os.sched_getaffinity(0) - {_getcpu()} or None


def _move(threads: list[int], cpus: set[int]) -> None:
    """Let threads run on these CPUs only; one that is gone, or that may not, stays as it is."""
    for t in threads:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(t, cpus)


def _find_getcpu() -> Any:
    try:
        return ctypes.CDLL(None).sched_getcpu
    except (OSError, AttributeError, TypeError):
        return None


def _yield_address() -> int:
    """Address of the C library's "let another thread run", or 0 where there is none."""
    try:
        if os.name == "nt":
            entry = ctypes.WinDLL("kernel32").SwitchToThread  # type: ignore[attr-defined]
        else:
            entry = ctypes.CDLL(None).sched_yield
    except (OSError, AttributeError):
        return 0
    return ctypes.cast(entry, ctypes.c_void_p).value or 0


_getcpu = _find_getcpu()
_pool = _Pool()
atexit.register(_pool.stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.reset_after_fork)
