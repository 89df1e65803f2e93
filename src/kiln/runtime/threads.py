"""The thread pool of compiled programs, and the call that runs a whole plan.

Note [Claiming pool]: one parallel region is published as one 64-bit word,
``generation << 32 | ntasks << 16 | next``, and its tasks are claimed by compare-and-swap, by the
workers and by the caller alike. The caller waits only for tasks that a worker has claimed, so a
worker that sleeps, is descheduled or is gone costs speed and never progress. Work is split by
``ntasks``, which kernels take from shapes alone: the bits don't depend on the number of threads.

Note [Rescue]: a worker that is taken off its CPU while it has a task keeps the caller waiting for the
rest of another process's time slice, milliseconds at a time. A caller that has waited for a tenth of
one therefore looks whether a worker's CPU clock stands still, moves such a worker onto its own CPU and
yields to it; done with the task, the worker is sent away again. Linux only; elsewhere callers wait.

Workers are Python threads inside one long ctypes call (so without the GIL). They spin for a
while when idle, then return to Python and sleep on a lock, which works alike on every system.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import ctypes
import os
import sys
import threading
import time
from typing import Any

from kiln.config import config
from kiln.errors import KilnTypeError, KilnValueError, describe

# Fields of the pool block, in bytes; each hot word has a cache line to itself.
_WORD, _DONE, _BUSY, _ASLEEP, _ACTIVE, _STOP = 0, 64, 128, 192, 256, 320
_KERNEL, _ARGS, _BASE, _TOTAL, _WORKERS, _WAKE, _YIELD = 384, 392, 400, 408, 416, 424, 432
_PENALTY, _RESCUED, _RESCUE = 448, 456, 464
_POOL_BYTES = 512

PLAN_ENTRY_BYTES = 24
"""Size of one plan entry: kernel address, argument block address, ntasks (three i64)."""

_SPIN_IDLE = 20_000  # about 0.3 ms on current x86 cores
_SPIN_ACTIVE = 1_000_000  # while a plan is running, stay awake through its serial stretches

_IR = r"""
declare void @PAUSE
declare i64 @llvm.readcyclecounter()

define void @kiln_parallel(ptr %pool, ptr %kernel, ptr %args, i64 %ntasks) {
entry:
  %few = icmp sle i64 %ntasks, 1
  br i1 %few, label %serial, label %ask
ask:
  %workers.p = getelementptr i8, ptr %pool, i64 WORKERS
  %workers = load atomic i64, ptr %workers.p monotonic, align 8
  %alone = icmp eq i64 %workers, 0
  br i1 %alone, label %serial, label %trust
trust:
  ; after a worker was lost to another process for long, some regions run on the caller alone
  %penalty.p = getelementptr i8, ptr %pool, i64 PENALTY
  %penalty = load atomic i64, ptr %penalty.p monotonic, align 8
  %punished = icmp sgt i64 %penalty, 0
  br i1 %punished, label %shun, label %lock
shun:
  %penalty.next = sub i64 %penalty, 1
  store atomic i64 %penalty.next, ptr %penalty.p monotonic, align 8
  br label %serial
lock:
  %busy.p = getelementptr i8, ptr %pool, i64 BUSY
  %got = cmpxchg ptr %busy.p, i64 0, i64 1 acquire monotonic
  %mine = extractvalue { i64, i1 } %got, 1
  br i1 %mine, label %locked, label %serial
serial:
  %any = icmp sgt i64 %ntasks, 0
  br i1 %any, label %serial.loop, label %exit
serial.loop:
  %s = phi i64 [ 0, %serial ], [ %s.next, %serial.loop ]
  call void %kernel(ptr %args, i64 %s, i64 %ntasks)
  %s.next = add i64 %s, 1
  %s.more = icmp slt i64 %s.next, %ntasks
  br i1 %s.more, label %serial.loop, label %exit
locked:
  %t0 = call i64 @llvm.readcyclecounter()
  %kernel.p = getelementptr i8, ptr %pool, i64 KERNEL
  %args.p = getelementptr i8, ptr %pool, i64 ARGS
  %base.p = getelementptr i8, ptr %pool, i64 BASE
  %total.p = getelementptr i8, ptr %pool, i64 TOTAL
  %done.p = getelementptr i8, ptr %pool, i64 DONE
  %asleep.p = getelementptr i8, ptr %pool, i64 ASLEEP
  %kernel.i = ptrtoint ptr %kernel to i64
  %args.i = ptrtoint ptr %args to i64
  store atomic i64 %kernel.i, ptr %kernel.p monotonic, align 8
  store atomic i64 %args.i, ptr %args.p monotonic, align 8
  store atomic i64 %ntasks, ptr %total.p monotonic, align 8
  br label %batch
batch:
  ; ntasks has 16 bits in the word, so a larger region is published in pieces
  %base = phi i64 [ 0, %locked ], [ %base.next, %counted ]
  %left = sub i64 %ntasks, %base
  %fits = icmp ult i64 %left, 65535
  %count = select i1 %fits, i64 %left, i64 65535
  store atomic i64 %base, ptr %base.p monotonic, align 8
  store atomic i64 0, ptr %done.p monotonic, align 8
  %old = load atomic i64, ptr %pool monotonic, align 8
  %gen = lshr i64 %old, 32
  %gen.next = add i64 %gen, 1
  %hi = shl i64 %gen.next, 32
  %mid = shl i64 %count, 16
  %word = or i64 %hi, %mid
  store atomic i64 %word, ptr %pool seq_cst, align 8
  %asleep = load atomic i64, ptr %asleep.p seq_cst, align 8
  %call.wake = icmp ne i64 %asleep, 0
  br i1 %call.wake, label %wake, label %claim
wake:
  %wake.p = getelementptr i8, ptr %pool, i64 WAKE
  %wake.f = load ptr, ptr %wake.p
  call void %wake.f()
  br label %claim
claim:
  %own = phi i64 [ 0, %batch ], [ 0, %wake ], [ %own, %retry ], [ %own.next, %work ]
  %now = load atomic i64, ptr %pool monotonic, align 8
  %next = and i64 %now, 65535
  %open = icmp ult i64 %next, %count
  br i1 %open, label %retry, label %wait
retry:
  %now.next = add i64 %now, 1
  %swap = cmpxchg ptr %pool, i64 %now, i64 %now.next acquire monotonic
  %won = extractvalue { i64, i1 } %swap, 1
  br i1 %won, label %work, label %claim
work:
  %task = add i64 %base, %next
  call void %kernel(ptr %args, i64 %task, i64 %ntasks)
  %own.next = add i64 %own, 1
  br label %claim
wait:
  %theirs = sub i64 %count, %own
  %t1 = call i64 @llvm.readcyclecounter()
  %rescued.p = getelementptr i8, ptr %pool, i64 RESCUED
  br label %wait.loop
wait.loop:
  %spins = phi i64 [ 0, %wait ], [ %spins.next, %wait.more ]
  %asked = phi i64 [ %t1, %wait ], [ %asked.next, %wait.more ]
  %done = load atomic i64, ptr %done.p acquire, align 8
  %all = icmp eq i64 %done, %theirs
  br i1 %all, label %joined, label %wait.again
wait.again:
  %spins.next = add i64 %spins, 1
  %rescued = load atomic i64, ptr %rescued.p monotonic, align 8
  %here = icmp ne i64 %rescued, 0
  %every = select i1 %here, i64 0, i64 1023
  %rest = and i64 %spins.next, %every
  %tired = icmp eq i64 %rest, 0
  br i1 %tired, label %wait.yield, label %wait.pause
wait.pause:
  call void @PAUSE
  br label %wait.more
wait.yield:
  %t = call i64 @llvm.readcyclecounter()
  %since = sub i64 %t, %asked
  %late = icmp ugt i64 %since, 400000
  %there = xor i1 %here, true
  %worry = and i1 %late, %there
  br i1 %worry, label %wait.rescue, label %wait.share
wait.rescue:
  ; Note [Rescue]
  %rescue.p = getelementptr i8, ptr %pool, i64 RESCUE
  %rescue.f = load ptr, ptr %rescue.p
  call void %rescue.f()
  br label %wait.share
wait.share:
  %asked.now = phi i64 [ %asked, %wait.yield ], [ %t, %wait.rescue ]
  ; more threads than cores: let the worker that holds a task run
  %yield.p = getelementptr i8, ptr %pool, i64 YIELD
  %yield.f = load ptr, ptr %yield.p
  %can = icmp ne ptr %yield.f, null
  br i1 %can, label %wait.os, label %wait.more
wait.os:
  call void %yield.f()
  br label %wait.more
wait.more:
  %asked.next = phi i64 [ %asked, %wait.pause ], [ %asked.now, %wait.share ], [ %asked.now, %wait.os ]
  br label %wait.loop
joined:
  %guest = load atomic i64, ptr %rescued.p monotonic, align 8
  %undo = icmp ne i64 %guest, 0
  br i1 %undo, label %restore, label %judge
restore:
  %restore.p = getelementptr i8, ptr %pool, i64 RESCUE
  %restore.f = load ptr, ptr %restore.p
  call void %restore.f()
  br label %judge
judge:
  ; waiting 4 times its own work and a million cycles (0.3 ms) is long: the next 400 regions stay here
  %t2 = call i64 @llvm.readcyclecounter()
  %worked = sub i64 %t1, %t0
  %waited = sub i64 %t2, %t1
  %fair = mul i64 %worked, 4
  %limit = add i64 %fair, 1000000
  %lost = icmp ugt i64 %waited, %limit
  br i1 %lost, label %punish, label %counted
punish:
  store atomic i64 400, ptr %penalty.p monotonic, align 8
  br label %counted
counted:
  %base.next = add i64 %base, %count
  %more = icmp slt i64 %base.next, %ntasks
  br i1 %more, label %batch, label %unlock
unlock:
  store atomic i64 0, ptr %busy.p release, align 8
  br label %exit
exit:
  ret void
}

; Runs the entries from %first on; returns 0 at the end, or the entry after the stop that it came to.
define i64 @kiln_run(ptr %pool, ptr %plan, i64 %first, i64 %n) {
entry:
  %active.p = getelementptr i8, ptr %pool, i64 ACTIVE
  %0 = atomicrmw add ptr %active.p, i64 1 monotonic
  br label %head
head:
  %i = phi i64 [ %first, %entry ], [ %i.next, %step ], [ %i.jump, %jump ]
  %more = icmp slt i64 %i, %n
  br i1 %more, label %body, label %exit
body:
  %entry.p = getelementptr { ptr, ptr, i64 }, ptr %plan, i64 %i
  %args.p = getelementptr i8, ptr %entry.p, i64 8
  %ntasks.p = getelementptr i8, ptr %entry.p, i64 16
  %kernel = load ptr, ptr %entry.p
  %args = load ptr, ptr %args.p
  %ntasks = load i64, ptr %ntasks.p
  %i.next = add i64 %i, 1
  %stops = icmp eq ptr %kernel, null
  br i1 %stops, label %stop, label %launch
stop:
  ; an entry without a kernel: a stop, always (no flag) or where the byte at its flag is set
  %always = icmp eq ptr %args, null
  br i1 %always, label %exit, label %flagged
flagged:
  %flag = load i8, ptr %args
  %set = icmp ne i8 %flag, 0
  br i1 %set, label %exit, label %step
launch:
  %few = icmp sle i64 %ntasks, 1
  br i1 %few, label %one, label %many
one:
  %control = icmp slt i64 %ntasks, 0
  br i1 %control, label %jump, label %call
call:
  call void %kernel(ptr %args, i64 0, i64 1)
  br label %step
jump:
  ; an entry that says where to go on: how many entries to skip, or to go back
  %by = call i64 %kernel(ptr %args)
  %i.jump = add i64 %i.next, %by
  br label %head
many:
  call void @kiln_parallel(ptr %pool, ptr %kernel, ptr %args, i64 %ntasks)
  br label %step
step:
  br label %head
exit:
  %at = phi i64 [ 0, %head ], [ %i.next, %stop ], [ %i.next, %flagged ]
  %1 = atomicrmw sub ptr %active.p, i64 1 monotonic
  ret i64 %at
}

; Claims tasks until the epoch changes (returns 1) or nothing came for long (returns 0).
define i64 @kiln_worker(ptr %pool, i64 %epoch, i64 %idle, i64 %patience) {
entry:
  %stop.p = getelementptr i8, ptr %pool, i64 STOP
  %done.p = getelementptr i8, ptr %pool, i64 DONE
  %active.p = getelementptr i8, ptr %pool, i64 ACTIVE
  %kernel.p = getelementptr i8, ptr %pool, i64 KERNEL
  %args.p = getelementptr i8, ptr %pool, i64 ARGS
  %base.p = getelementptr i8, ptr %pool, i64 BASE
  %total.p = getelementptr i8, ptr %pool, i64 TOTAL
  %rescued.p = getelementptr i8, ptr %pool, i64 RESCUED
  br label %look
look:
  %spins = phi i64 [ 0, %entry ], [ 0, %work ], [ %spins, %claim ], [ %spins.next, %spin ], [ %spins.next, %give ]
  %now = load atomic i64, ptr %pool acquire, align 8
  %next = and i64 %now, 65535
  %shifted = lshr i64 %now, 16
  %count = and i64 %shifted, 65535
  %open = icmp ult i64 %next, %count
  br i1 %open, label %claim, label %none
claim:
  ; read before the swap: if the swap succeeds, the region was still this one
  %kernel.i = load atomic i64, ptr %kernel.p monotonic, align 8
  %args.i = load atomic i64, ptr %args.p monotonic, align 8
  %base = load atomic i64, ptr %base.p monotonic, align 8
  %total = load atomic i64, ptr %total.p monotonic, align 8
  %now.next = add i64 %now, 1
  %swap = cmpxchg ptr %pool, i64 %now, i64 %now.next acq_rel monotonic
  %won = extractvalue { i64, i1 } %swap, 1
  br i1 %won, label %work, label %look
work:
  %kernel = inttoptr i64 %kernel.i to ptr
  %args = inttoptr i64 %args.i to ptr
  %task = add i64 %base, %next
  call void %kernel(ptr %args, i64 %task, i64 %total)
  %0 = atomicrmw add ptr %done.p, i64 1 release
  br label %look
none:
  %stop = load atomic i64, ptr %stop.p monotonic, align 8
  %old = icmp ne i64 %stop, %epoch
  br i1 %old, label %leave, label %idle.check
idle.check:
  %spins.next = add i64 %spins, 1
  %enough = icmp sgt i64 %spins.next, %idle
  br i1 %enough, label %active.check, label %pause
active.check:
  %active = load atomic i64, ptr %active.p monotonic, align 8
  %running = icmp sgt i64 %active, 0
  %patient = icmp slt i64 %spins.next, %patience
  %stay = and i1 %running, %patient
  br i1 %stay, label %pause, label %sleep
pause:
  ; on the caller's CPU (Note [Rescue]) the caller goes first
  %rescued = load atomic i64, ptr %rescued.p monotonic, align 8
  %guest = icmp ne i64 %rescued, 0
  br i1 %guest, label %give, label %spin
give:
  %yield.p = getelementptr i8, ptr %pool, i64 YIELD
  %yield.f = load ptr, ptr %yield.p
  call void %yield.f()
  br label %look
spin:
  call void @PAUSE
  br label %look
sleep:
  ret i64 0
leave:
  ret i64 1
}
"""


class _Pool:
    """The pool block, the threads that serve it and the native entry points."""

    def __init__(self) -> None:
        raw = ctypes.create_string_buffer(_POOL_BYTES + 64)
        self._raw = raw
        self.address = (ctypes.addressof(raw) + 63) & ~63
        self.threads: list[threading.Thread] = []
        self.sleepers: list[tuple[Any, int]] = []  # (lock slept on, native thread id)
        self.lock = threading.Lock()
        self.size = _default_threads()
        self.started = False
        self.run: Any = None
        self._worker: Any = None
        self.workers: list[int] = []  # native thread ids
        self.guests: list[int] = []  # workers moved onto a caller's CPU
        self._wake_c = ctypes.CFUNCTYPE(None)(self.wake)
        self._rescue_c = ctypes.CFUNCTYPE(None)(self.rescue)

    def field(self, offset: int) -> ctypes.c_int64:
        """A view of one 64-bit field of the pool block."""
        return ctypes.c_int64.from_address(self.address + offset)

    def link(self) -> None:
        """Compile the native side (once a process) and fill in the callbacks."""
        if self.run is not None:
            return
        from kiln.backends.cpu import jit
        from kiln.backends.cpu.isa import make_isa

        isa = make_isa()
        lookup = jit.build([_text(isa.name)], isa)
        word, pointer = ctypes.c_int64, ctypes.c_void_p
        self._worker = ctypes.CFUNCTYPE(word, pointer, word, word, word)(lookup("kiln_worker"))
        self.field(_WAKE).value = ctypes.cast(self._wake_c, pointer).value or 0
        self.field(_RESCUE).value = ctypes.cast(self._rescue_c, pointer).value or 0
        self.field(_YIELD).value = _yield_address()
        self.run = ctypes.CFUNCTYPE(word, pointer, pointer, word, word)(lookup("kiln_run"))

    def start(self) -> None:
        """Start the workers that ``size`` asks for; called before the first parallel plan."""
        with self.lock:
            if self.started:
                return
            self.link()
            epoch = self.field(_STOP).value
            for number in range(1, self.size):
                thread = threading.Thread(
                    target=self._serve, args=(epoch,), name=f"kiln-{number}", daemon=True
                )
                try:
                    thread.start()
                except RuntimeError:  # no more threads, or the interpreter is shutting down
                    break
                self.threads.append(thread)
            self.field(_WORKERS).value = len(self.threads)
            self.started = True

    def stop(self) -> None:
        """Send the workers home; tasks already claimed are finished by whoever claimed them."""
        with self.lock:
            self.field(_WORKERS).value = 0
            self.field(_STOP).value += 1
            threads, self.threads = self.threads, []
            self.workers, self.started = [], False
        self.wake()
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(timeout=1.0)

    def wake(self) -> None:
        """Wake every sleeping worker (also called from native code, through ctypes)."""
        # Cleared before the list is emptied: a worker appends first and sets the word after,
        # so the word is never 0 while a worker sleeps on the list.
        self.field(_ASLEEP).value = 0
        elsewhere = _other_cpus() if self.sleepers else None
        while self.sleepers:
            try:
                bed, thread = self.sleepers.pop()
            except IndexError:
                return
            if elsewhere:
                _move([thread], elsewhere)
            bed.release()

    def rescue(self) -> None:
        """Move workers that were taken off their CPUs to the caller's, or send them away again (called from native code)."""
        if not _CAN_RESCUE:
            return
        if self.guests:
            guests, self.guests = self.guests, []
            _move(guests, os.sched_getaffinity(0) - {_getcpu()})
            self.field(_RESCUED).value = 0
            return
        asleep = {thread for _, thread in self.sleepers}
        clocks = [
            (w, t) for w in self.workers if w not in asleep and (t := _cpu_time(w)) is not None
        ]
        until = time.perf_counter_ns() + 5000
        while time.perf_counter_ns() < until:
            pass
        still = [w for w, t in clocks if _cpu_time(w) == t]
        if still:
            self.guests = still
            _move(still, {_getcpu()})
            self.field(_RESCUED).value = 1

    def reset_after_fork(self) -> None:
        """Forget the threads, which a forked child doesn't have; they start again on demand."""
        self.lock = threading.Lock()
        self.threads, self.sleepers, self.started = [], [], False
        self.workers, self.guests = [], []
        for offset in (_WORD, _DONE, _BUSY, _ASLEEP, _ACTIVE, _WORKERS, _RESCUED):
            self.field(offset).value = 0

    def _serve(self, epoch: int) -> None:
        bed = _thread.allocate_lock()
        bed.acquire()
        thread = threading.get_native_id()
        self.workers.append(thread)
        asleep = self.field(_ASLEEP)
        stop = self.field(_STOP)
        while not self._worker(self.address, epoch, _SPIN_IDLE, _SPIN_ACTIVE):
            self.sleepers.append((bed, thread))
            asleep.value = 1
            if stop.value != epoch:
                return
            bed.acquire()


def run_plan(address: int, n: int, first: int = 0) -> int:
    """Run the ``n`` plan entries at ``address`` from entry ``first`` on, in one native call without the GIL.

    An entry is three 64-bit words: kernel address, argument block address, ntasks. A kernel is
    ``void kernel(ptr args, i64 task, i64 ntasks)``; with ntasks 0 or 1 it runs on this thread
    (host callbacks must), else its tasks are spread over the pool. With ntasks -1 the entry is a
    jump, ``i64 jump(ptr args)``: it gives how many entries to skip, and a negative number goes back.
    An entry without a kernel is a stop: where its second word is 0, or the address of a byte that is
    not 0. Returns 0, or the number of the entry after the stop that it came to.
    """
    ready()
    return _pool.run(_pool.address, address, first, n)


def jump(address: int, args: int) -> int:
    """What a jump of a plan gives: how many entries to skip."""
    return ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)(address)(args)


def ready() -> None:
    """Have the workers started and awake."""
    if not _pool.started:
        _pool.start()
    if _pool.sleepers:
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


def _text(isa_name: str) -> str:
    text = _IR
    if isa_name == "neon":
        text = text.replace("declare void @PAUSE", "declare void @llvm.aarch64.hint(i32)")
        text = text.replace("@PAUSE", "@llvm.aarch64.hint(i32 1)")
    else:
        text = text.replace("@PAUSE", "@llvm.x86.sse2.pause()")
    fields = {
        "WORKERS": _WORKERS,
        "BUSY": _BUSY,
        "KERNEL": _KERNEL,
        "ARGS": _ARGS,
        "BASE": _BASE,
        "TOTAL": _TOTAL,
        "DONE": _DONE,
        "ASLEEP": _ASLEEP,
        "ACTIVE": _ACTIVE,
        "STOP": _STOP,
        "WAKE": _WAKE,
        "YIELD": _YIELD,
        "PENALTY": _PENALTY,
        "RESCUED": _RESCUED,
        "RESCUE": _RESCUE,
    }
    for name, offset in fields.items():
        text = text.replace(f"i64 {name}\n", f"i64 {offset}\n")
    return text


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


def _cpu_time(thread: int) -> int | None:
    """Nanoseconds for which a thread of this process has run (Linux); None where it is gone."""
    try:
        return time.clock_gettime_ns(~thread << 3 | 6)
    except OSError:
        return None


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
_CAN_RESCUE = sys.platform == "linux" and _getcpu is not None
_pool = _Pool()
atexit.register(_pool.stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.reset_after_fork)
