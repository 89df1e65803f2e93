"""Beside other busy processes: threads that lost their CPU get one back (Linux).

Note [Rescue]: a thread that is taken off its CPU in the middle of a region keeps the others waiting
for the rest of another process's time slice, milliseconds at a time. Which threads those are is told
by their CPU clocks: for some microseconds they stand still.

* A caller that waits for a worker's task moves such a worker onto its own CPU and yields to it; done
  with the task, the worker yields in turn and is sent away again (`kiln_rescue`, `kiln_restore`).
* A worker that finds nothing to do while a plan runs, and whose caller's clock stands still, leaves its
  own CPU, which Linux then gives to a thread that waits for one (`kiln_relieve`): only the caller takes
  the plan further, so where one CPU has to be shared with another process it had better be the worker's.

All of it is native code without the GIL, which other Python threads may hold. The pool's block and its
roster are described in `claiming`.
"""

from __future__ import annotations

import ctypes
import platform
import sys

_GETTID = {"x86_64": 186, "aarch64": 178}
"""The number of the system call that gives a thread's id; old C libraries have no function for it."""

FUNCTIONS = "THREAD_ID", "RESCUE", "RESTORE", "RELIEVE"
"""The fields of the pool block that hold this file's functions, `kiln_` and the name in lower case."""

_CALLS = "sched_getcpu", "sched_getaffinity", "sched_setaffinity", "clock_gettime", "syscall"

IR = r"""
declare i64 @llvm.readcyclecounter()
declare i32 @sched_getcpu()
declare i32 @sched_getaffinity(i32, i64, ptr)
declare i32 @sched_setaffinity(i32, i64, ptr)
declare i32 @clock_gettime(i32, ptr)
declare i64 @syscall(i64, ...)

define i64 @kiln_thread_id() {
  %tid = call i64 (i64, ...) @syscall(i64 GETTID)
  ret i64 %tid
}

; Nanoseconds for which a thread of this process has run; -1 where there is no such thread.
define internal i64 @cpu_time(i64 %tid) {
entry:
  %spec = alloca [2 x i64]
  %none = icmp sle i64 %tid, 0
  br i1 %none, label %gone, label %ask
ask:
  %not = xor i64 %tid, -1
  %shifted = shl i64 %not, 3
  %wide = or i64 %shifted, 6
  %clock = trunc i64 %wide to i32
  %failed = call i32 @clock_gettime(i32 %clock, ptr %spec)
  %bad = icmp ne i32 %failed, 0
  br i1 %bad, label %gone, label %read
read:
  %seconds = load i64, ptr %spec
  %rest.p = getelementptr i64, ptr %spec, i64 1
  %rest = load i64, ptr %rest.p
  %whole = mul i64 %seconds, 1000000000
  %time = add i64 %whole, %rest
  ret i64 %time
gone:
  ret i64 -1
}

; Lets some microseconds pass, in which the clock of a running thread moves on.
define internal void @moment() {
entry:
  %begin = call i64 @llvm.readcyclecounter()
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %i.next, %again ]
  %now = call i64 @llvm.readcyclecounter()
  %since = sub i64 %now, %begin
  %over = icmp ugt i64 %since, 15000
  br i1 %over, label %exit, label %again
again:
  ; where cycles are counted slowly, so many looks are long enough
  %i.next = add i64 %i, 1
  %more = icmp ult i64 %i.next, 1000
  br i1 %more, label %loop, label %exit
exit:
  ret void
}

; Puts the CPU that the calling thread is on into a set, or takes it out; one that no set can hold is left.
define internal void @put(ptr %set, i1 %in) {
entry:
  %cpu32 = call i32 @sched_getcpu()
  %cpu = zext i32 %cpu32 to i64
  %known = icmp ult i64 %cpu, 1024
  br i1 %known, label %change, label %exit
change:
  %word = lshr i64 %cpu, 6
  %bit = and i64 %cpu, 63
  %p = getelementptr i64, ptr %set, i64 %word
  %mask = shl i64 1, %bit
  %others = xor i64 %mask, -1
  %old = load i64, ptr %p
  %with = or i64 %old, %mask
  %without = and i64 %old, %others
  %new = select i1 %in, i64 %with, i64 %without
  store i64 %new, ptr %p
  br label %exit
exit:
  ret void
}

; The CPUs that a thread may use but the calling thread isn't on; an empty set is refused where it is used.
define internal void @elsewhere(i64 %tid, ptr %set) {
entry:
  store [16 x i64] zeroinitializer, ptr %set
  %who = trunc i64 %tid to i32
  %0 = call i32 @sched_getaffinity(i32 %who, i64 128, ptr %set)
  call void @put(ptr %set, i1 0)
  ret void
}

define internal void @move(i64 %tid, ptr %set) {
entry:
  %who = trunc i64 %tid to i32
  %0 = call i32 @sched_setaffinity(i32 %who, i64 128, ptr %set)
  ret void
}

; Moves workers that hold a task, but don't run, to the caller's CPU.
define void @kiln_rescue(ptr %pool) {
entry:
  %set = alloca [16 x i64]
  %roster.p = getelementptr i8, ptr %pool, i64 ROSTER
  %roster = load atomic ptr, ptr %roster.p acquire, align 8
  %count = load i64, ptr %roster
  br label %look
look:
  %i = phi i64 [ 1, %entry ], [ %i.next, %looked ]
  %all = icmp ugt i64 %i, %count
  br i1 %all, label %pause, label %ask
ask:
  %slot = getelementptr [64 x i8], ptr %roster, i64 %i
  %holding.p = getelementptr i8, ptr %slot, i64 HOLDING
  %holding = load atomic i64, ptr %holding.p monotonic, align 8
  %holds = icmp ne i64 %holding, 0
  br i1 %holds, label %read, label %looked
read:
  %tid.p = getelementptr i8, ptr %slot, i64 TID
  %tid = load atomic i64, ptr %tid.p monotonic, align 8
  %read.time = call i64 @cpu_time(i64 %tid)
  br label %looked
looked:
  %time = phi i64 [ -1, %ask ], [ %read.time, %read ]
  %time.p = getelementptr i8, ptr %slot, i64 TIME
  store i64 %time, ptr %time.p
  %i.next = add i64 %i, 1
  br label %look
pause:
  store [16 x i64] zeroinitializer, ptr %set
  call void @put(ptr %set, i1 1)
  call void @moment()
  br label %judge
judge:
  %j = phi i64 [ 1, %pause ], [ %j.next, %judged ]
  %done = icmp ugt i64 %j, %count
  br i1 %done, label %exit, label %compare
compare:
  %slot.j = getelementptr [64 x i8], ptr %roster, i64 %j
  %tid.jp = getelementptr i8, ptr %slot.j, i64 TID
  %time.jp = getelementptr i8, ptr %slot.j, i64 TIME
  %tid.j = load atomic i64, ptr %tid.jp monotonic, align 8
  %before = load i64, ptr %time.jp
  %idle = icmp slt i64 %before, 0
  br i1 %idle, label %judged, label %again
again:
  %after = call i64 @cpu_time(i64 %tid.j)
  %still = icmp eq i64 %before, %after
  br i1 %still, label %move, label %judged
move:
  ; marked before it is moved: it may run at once, and has to know that it is a guest
  %guest.p = getelementptr i8, ptr %slot.j, i64 GUEST
  store atomic i64 1, ptr %guest.p monotonic, align 8
  %rescued.p = getelementptr i8, ptr %pool, i64 RESCUED
  store atomic i64 1, ptr %rescued.p release, align 8
  call void @move(i64 %tid.j, ptr %set)
  br label %judged
judged:
  %j.next = add i64 %j, 1
  br label %judge
exit:
  ret void
}

; Sends the guests on the caller's CPU away.
define void @kiln_restore(ptr %pool) {
entry:
  %set = alloca [16 x i64]
  %rescued.p = getelementptr i8, ptr %pool, i64 RESCUED
  store atomic i64 0, ptr %rescued.p monotonic, align 8
  call void @elsewhere(i64 0, ptr %set)
  %roster.p = getelementptr i8, ptr %pool, i64 ROSTER
  %roster = load atomic ptr, ptr %roster.p acquire, align 8
  %count = load i64, ptr %roster
  br label %look
look:
  %i = phi i64 [ 1, %entry ], [ %i.next, %looked ]
  %all = icmp ugt i64 %i, %count
  br i1 %all, label %exit, label %ask
ask:
  %slot = getelementptr [64 x i8], ptr %roster, i64 %i
  %guest.p = getelementptr i8, ptr %slot, i64 GUEST
  %guest = load atomic i64, ptr %guest.p monotonic, align 8
  %is = icmp ne i64 %guest, 0
  br i1 %is, label %move, label %looked
move:
  store atomic i64 0, ptr %guest.p monotonic, align 8
  %tid.p = getelementptr i8, ptr %slot, i64 TID
  %tid = load atomic i64, ptr %tid.p monotonic, align 8
  call void @move(i64 %tid, ptr %set)
  br label %looked
looked:
  %i.next = add i64 %i, 1
  br label %look
exit:
  ret void
}

; On an idle worker: where the caller has been taken off its CPU, this one gets free for it.
define void @kiln_relieve(ptr %pool) {
entry:
  %set = alloca [16 x i64]
  %caller.p = getelementptr i8, ptr %pool, i64 CALLER
  %caller = load atomic i64, ptr %caller.p monotonic, align 8
  %before = call i64 @cpu_time(i64 %caller)
  %none = icmp slt i64 %before, 0
  br i1 %none, label %exit, label %wait
wait:
  call void @moment()
  %after = call i64 @cpu_time(i64 %caller)
  %caller.now = load atomic i64, ptr %caller.p monotonic, align 8
  %still = icmp eq i64 %before, %after
  %same = icmp eq i64 %caller, %caller.now
  %off = and i1 %still, %same
  br i1 %off, label %look, label %exit
look:
  call void @elsewhere(i64 %caller, ptr %set)
  call void @move(i64 0, ptr %set)
  br label %exit
exit:
  ret void
}
"""


def text() -> str | None:
    """The native code of this system; None where it has no such calls."""
    number = _GETTID.get(platform.machine())
    if sys.platform != "linux" or number is None:
        return None
    library = ctypes.CDLL(None)
    if not all(hasattr(library, name) for name in _CALLS):
        return None
    return IR.replace("GETTID", str(number))
