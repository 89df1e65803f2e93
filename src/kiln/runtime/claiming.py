"""The native side of the thread pool: its memory, and the code that shares out and runs a plan's tasks.

Note [Claiming pool]: one parallel region is published as one 64-bit word,
``generation << 32 | end << 16 | next``, of which the caller takes the next task and workers the last,
by compare-and-swap. From both ends, since a later region often reads what an earlier one wrote or read
at the same place: what the same core has in its cache already. The caller waits only for tasks that a worker has claimed, so a
worker that sleeps, is descheduled or is gone costs speed and never progress. Work is split by
``ntasks``, which kernels take from shapes alone: the bits don't depend on the number of threads.

Note [Places]: a kernel is called with a task and a place, the first task that this thread has had
in the region: below ``ntasks``, and nobody else's. A task keeps scratch memory of its own there, which
is in the thread's cache from its last task.

Note [Light regions]: waking a worker takes the caller some 10 us, and one that waits for work takes a CPU. So a
region of few microseconds, whose ``ntasks`` has LIGHT added, is for workers that are awake; of those that find
some asleep only each eighth wakes them. After it workers wait half as long. Programs with such regions close
together have workers at hand, others run them alone, at no more processor time than they take.

The pool's block is shared by all threads. Beside it stands the roster, a line of 64 bytes for each
worker after one with their number: it says who they are and which of them have a task in hand.
"""

from __future__ import annotations

FIELDS = {
    # hot words, each in a cache line of its own
    "WORD": 0, "DONE": 64, "BUSY": 128, "ASLEEP": 192, "ACTIVE": 256, "STOP": 320,
    # the region
    "KERNEL": 384, "ARGS": 392, "BASE": 400, "WORKERS": 408, "CALLER": 416, "LIGHT": 424, "MISSED": 432,
    # rarely written
    "RESCUED": 448, "ROSTER": 456,
    # functions
    "WAKE": 512, "YIELD": 520, "THREAD_ID": 528, "RESCUE": 536, "RESTORE": 544, "RELIEVE": 552,
}  # fmt: skip
"""Fields of the pool block, in bytes."""

POOL_BYTES = 576

SLOT = {"TID": 0, "HOLDING": 8, "GUEST": 16, "TIME": 24}
"""Fields of a worker's line in the roster, in bytes: the thread's id, whether it may have a task,
whether it is on the caller's CPU (`rescue`), and what its CPU clock last said."""

LIGHT = 1 << 32
"""Added to a plan entry's number of tasks: Note [Light regions]."""

SPIN_IDLE = 20_000  # about 0.3 ms on current x86 cores
SPIN_ACTIVE = 1_000_000  # while a plan is running, stay awake through its serial stretches

IR = r"""
declare void @PAUSE

define void @kiln_parallel(ptr %pool, ptr %kernel, ptr %args, i64 %region) {
entry:
  %light = lshr i64 %region, 32
  %ntasks = and i64 %region, 4294967295
  %few = icmp sle i64 %ntasks, 1
  br i1 %few, label %serial, label %ask
ask:
  %workers.p = getelementptr i8, ptr %pool, i64 WORKERS
  %workers = load atomic i64, ptr %workers.p monotonic, align 8
  %alone = icmp eq i64 %workers, 0
  br i1 %alone, label %serial, label %lock
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
  call void %kernel(ptr %args, i64 %s, i64 0)
  %s.next = add i64 %s, 1
  %s.more = icmp slt i64 %s.next, %ntasks
  br i1 %s.more, label %serial.loop, label %exit
locked:
  %caller.p = getelementptr i8, ptr %pool, i64 CALLER
  %caller = load atomic i64, ptr %caller.p monotonic, align 8
  %named = icmp ne i64 %caller, 0
  br i1 %named, label %publish, label %name
name:
  %id.p = getelementptr i8, ptr %pool, i64 THREAD_ID
  %id.f = load ptr, ptr %id.p
  %anonymous = icmp eq ptr %id.f, null
  br i1 %anonymous, label %publish, label %sign
sign:
  %tid = call i64 %id.f()
  store atomic i64 %tid, ptr %caller.p monotonic, align 8
  br label %publish
publish:
  %kernel.p = getelementptr i8, ptr %pool, i64 KERNEL
  %args.p = getelementptr i8, ptr %pool, i64 ARGS
  %base.p = getelementptr i8, ptr %pool, i64 BASE
  %done.p = getelementptr i8, ptr %pool, i64 DONE
  %asleep.p = getelementptr i8, ptr %pool, i64 ASLEEP
  %kernel.i = ptrtoint ptr %kernel to i64
  %args.i = ptrtoint ptr %args to i64
  store atomic i64 %kernel.i, ptr %kernel.p monotonic, align 8
  store atomic i64 %args.i, ptr %args.p monotonic, align 8
  %light.p = getelementptr i8, ptr %pool, i64 LIGHT
  store atomic i64 %light, ptr %light.p monotonic, align 8
  br label %batch
batch:
  ; ntasks has 16 bits in the word, so a larger region is published in pieces
  %base = phi i64 [ 0, %publish ], [ %base.next, %counted ]
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
  %some.sleep = icmp ne i64 %asleep, 0
  br i1 %some.sleep, label %weigh, label %claim
weigh:
  %missed.p = getelementptr i8, ptr %pool, i64 MISSED
  %missed = load atomic i64, ptr %missed.p monotonic, align 8
  %missed.next = add i64 %missed, 1
  store atomic i64 %missed.next, ptr %missed.p monotonic, align 8
  %turn = and i64 %missed.next, 7
  %due = icmp eq i64 %turn, 0
  %heavy = icmp eq i64 %light, 0
  %call.wake = or i1 %heavy, %due
  br i1 %call.wake, label %wake, label %claim
wake:
  %wake.p = getelementptr i8, ptr %pool, i64 WAKE
  %wake.f = load ptr, ptr %wake.p
  call void %wake.f()
  br label %claim
claim:
  %own = phi i64 [ 0, %batch ], [ 0, %weigh ], [ 0, %wake ], [ %own, %retry ], [ %own.next, %work ]
  %held = phi i64 [ 0, %batch ], [ 0, %weigh ], [ 0, %wake ], [ %held, %retry ], [ %place, %work ]
  %now = load atomic i64, ptr %pool monotonic, align 8
  %next = and i64 %now, 65535
  %shifted = lshr i64 %now, 16
  %end = and i64 %shifted, 65535
  %open = icmp ult i64 %next, %end
  br i1 %open, label %retry, label %wait
retry:
  %now.next = add i64 %now, 1
  %swap = cmpxchg ptr %pool, i64 %now, i64 %now.next acquire monotonic
  %won = extractvalue { i64, i1 } %swap, 1
  br i1 %won, label %work, label %claim
work:
  %task = add i64 %base, %next
  %fresh = icmp eq i64 %own, 0
  %place = select i1 %fresh, i64 %task, i64 %held
  call void %kernel(ptr %args, i64 %task, i64 %place)
  %own.next = add i64 %own, 1
  br label %claim
wait:
  %theirs = sub i64 %count, %own
  %rescued.p = getelementptr i8, ptr %pool, i64 RESCUED
  br label %wait.loop
wait.loop:
  %spins = phi i64 [ 0, %wait ], [ %spins.next, %wait.pause ], [ %spins.next, %wait.rescue ], [ %spins.next, %wait.os ]
  %done = load atomic i64, ptr %done.p acquire, align 8
  %all = icmp eq i64 %done, %theirs
  br i1 %all, label %joined, label %wait.again
wait.again:
  %spins.next = add i64 %spins, 1
  %rescued = load atomic i64, ptr %rescued.p monotonic, align 8
  %here = icmp ne i64 %rescued, 0
  br i1 %here, label %wait.yield, label %wait.on
wait.on:
  %rest = and i64 %spins.next, 4095
  %long = icmp eq i64 %rest, 0
  br i1 %long, label %wait.long, label %wait.pause
wait.pause:
  call void @PAUSE
  br label %wait.loop
wait.long:
  %rescue.p = getelementptr i8, ptr %pool, i64 RESCUE
  %rescue.f = load ptr, ptr %rescue.p
  %can = icmp ne ptr %rescue.f, null
  br i1 %can, label %wait.rescue, label %wait.yield
wait.rescue:
  ; Note [Rescue]
  call void %rescue.f(ptr %pool)
  br label %wait.loop
wait.yield:
  ; let the worker that holds a task run, on this CPU or on a system that may give it one
  %yield.p = getelementptr i8, ptr %pool, i64 YIELD
  %yield.f = load ptr, ptr %yield.p
  %yields = icmp ne ptr %yield.f, null
  br i1 %yields, label %wait.os, label %wait.pause
wait.os:
  call void %yield.f()
  br label %wait.loop
joined:
  %guest = load atomic i64, ptr %rescued.p monotonic, align 8
  %undo = icmp ne i64 %guest, 0
  br i1 %undo, label %restore, label %counted
restore:
  %restore.p = getelementptr i8, ptr %pool, i64 RESTORE
  %restore.f = load ptr, ptr %restore.p
  call void %restore.f(ptr %pool)
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
  call void %kernel(ptr %args, i64 0, i64 0)
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
  %caller.p = getelementptr i8, ptr %pool, i64 CALLER
  store atomic i64 0, ptr %caller.p monotonic, align 8
  %1 = atomicrmw sub ptr %active.p, i64 1 monotonic
  ret i64 %at
}

; Claims tasks until the epoch changes (returns 1) or nothing came for long (returns 0).
define i64 @kiln_worker(ptr %pool, ptr %slot, i64 %epoch, i64 %idle, i64 %patience) {
entry:
  %stop.p = getelementptr i8, ptr %pool, i64 STOP
  %done.p = getelementptr i8, ptr %pool, i64 DONE
  %active.p = getelementptr i8, ptr %pool, i64 ACTIVE
  %kernel.p = getelementptr i8, ptr %pool, i64 KERNEL
  %args.p = getelementptr i8, ptr %pool, i64 ARGS
  %base.p = getelementptr i8, ptr %pool, i64 BASE
  %holding.p = getelementptr i8, ptr %slot, i64 HOLDING
  %guest.p = getelementptr i8, ptr %slot, i64 GUEST
  br label %look
look:
  %spins = phi i64 [ 0, %entry ], [ 0, %work ], [ %spins, %claim ], [ %spins.next, %spin ], [ %spins.next, %give ], [ %spins.next, %bored ], [ %spins.next, %relieve ]
  %held = phi i64 [ 0, %entry ], [ %place, %work ], [ %held, %claim ], [ 0, %spin ], [ 0, %give ], [ 0, %bored ], [ 0, %relieve ]
  %seen = phi i64 [ -1, %entry ], [ %gen, %work ], [ %seen, %claim ], [ -1, %spin ], [ -1, %give ], [ -1, %bored ], [ -1, %relieve ]
  %now = load atomic i64, ptr %pool acquire, align 8
  %next = and i64 %now, 65535
  %shifted = lshr i64 %now, 16
  %end = and i64 %shifted, 65535
  %open = icmp ult i64 %next, %end
  br i1 %open, label %claim, label %none
claim:
  store atomic i64 1, ptr %holding.p monotonic, align 8
  ; read before the swap: if the swap succeeds, the region was still this one
  %kernel.i = load atomic i64, ptr %kernel.p monotonic, align 8
  %args.i = load atomic i64, ptr %args.p monotonic, align 8
  %base = load atomic i64, ptr %base.p monotonic, align 8
  %now.next = sub i64 %now, 65536
  %swap = cmpxchg ptr %pool, i64 %now, i64 %now.next acq_rel monotonic
  %won = extractvalue { i64, i1 } %swap, 1
  br i1 %won, label %work, label %look
work:
  %kernel = inttoptr i64 %kernel.i to ptr
  %args = inttoptr i64 %args.i to ptr
  %last = sub i64 %end, 1
  %task = add i64 %base, %last
  %gen = lshr i64 %now, 32
  %same = icmp eq i64 %gen, %seen
  %place = select i1 %same, i64 %held, i64 %task
  call void %kernel(ptr %args, i64 %task, i64 %place)
  %0 = atomicrmw add ptr %done.p, i64 1 release
  br label %look
none:
  store atomic i64 0, ptr %holding.p monotonic, align 8
  %stop = load atomic i64, ptr %stop.p monotonic, align 8
  %old = icmp ne i64 %stop, %epoch
  br i1 %old, label %leave, label %idle.check
idle.check:
  %spins.next = add i64 %spins, 1
  %light.p = getelementptr i8, ptr %pool, i64 LIGHT
  %light = load atomic i64, ptr %light.p monotonic, align 8
  %limit = lshr i64 %idle, %light
  %enough = icmp sgt i64 %spins.next, %limit
  br i1 %enough, label %active.check, label %pause
active.check:
  %active = load atomic i64, ptr %active.p monotonic, align 8
  %running = icmp sgt i64 %active, 0
  %patient = icmp slt i64 %spins.next, %patience
  %stay = and i1 %running, %patient
  br i1 %stay, label %pause, label %sleep
pause:
  ; on the caller's CPU (Note [Rescue]) the caller goes first
  %guest = load atomic i64, ptr %guest.p monotonic, align 8
  %visits = icmp ne i64 %guest, 0
  br i1 %visits, label %give, label %spin
give:
  %yield.p = getelementptr i8, ptr %pool, i64 YIELD
  %yield.f = load ptr, ptr %yield.p
  call void %yield.f()
  br label %look
spin:
  call void @PAUSE
  %some = and i64 %spins.next, 4095
  %long = icmp eq i64 %some, 0
  br i1 %long, label %bored, label %look
bored:
  %relieve.p = getelementptr i8, ptr %pool, i64 RELIEVE
  %relieve.f = load ptr, ptr %relieve.p
  %able = icmp ne ptr %relieve.f, null
  %runs = load atomic i64, ptr %active.p monotonic, align 8
  %goes = icmp sgt i64 %runs, 0
  %may = and i1 %able, %goes
  br i1 %may, label %relieve, label %look
relieve:
  call void %relieve.f(ptr %pool)
  br label %look
sleep:
  ret i64 0
leave:
  ret i64 1
}
"""


def text(isa_name: str) -> str:
    """The LLVM IR of `kiln_run`, `kiln_parallel` and `kiln_worker`."""
    if isa_name == "neon":
        # isb takes about as long as x86's pause, yield no time at all
        pause, call = "llvm.aarch64.isb(i32)", "llvm.aarch64.isb(i32 15)"
    else:
        pause = call = "llvm.x86.sse2.pause()"
    return located(
        IR.replace("declare void @PAUSE", f"declare void @{pause}").replace("@PAUSE", f"@{call}")
    )


def located(text: str) -> str:
    """A text with offsets in place of the fields' names."""
    for name, offset in (FIELDS | SLOT).items():
        text = text.replace(f"i64 {name}\n", f"i64 {offset}\n")
    return text
