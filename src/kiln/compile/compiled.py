"""`kiln.compile`: a function that is captured once for each set of facts and then replayed."""

from __future__ import annotations

import functools
import gc
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import get_ident
from typing import Any

from .. import dtypes as dt
from .. import naming
from ..amounts import bytes_of
from ..autograd.modes import mode
from ..autograd.tape import ANOMALY
from ..backends import base
from ..config import config
from ..errors import CaptureError, KilnError, KilnTypeError, describe
from ..graph.node import Graph
from ..recording import COMPILE, PROGRAM, RECORDING, begin_call, block, end
from ..runtime.forks import own_lock
from ..tensor import ACTIVE, CAPTURING, Tensor, _fresh, active_capture
from .capture import Capture
from .entries import Entry, Key, Path, leaf_fact, passed, shared
from .facts import Facts, Same
from .interrupts import Branch, Eagerly, Reached
from .plan import Plan
from .pytree import flatten, unflatten
from .stretches import Aliased, Apart, stretches

_KILN = __name__.partition(".")[0] + "."


@contextmanager
def _collector_resting() -> Iterator[None]:
    """No garbage collection: a capture makes many small objects that live until its end."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


class CompiledFunction:
    """A function that runs as captured native programs; made by `kiln.compile`."""

    def __init__(
        self,
        fn: Callable,
        backend: str | None,
        name: str | None = None,
        max_memory: int | None = None,
        dynamic: bool | None = None,
        whole: bool = True,
    ):
        functools.update_wrapper(self, fn, updated=())
        self.fn, self.backend, self.max_memory = fn, backend, max_memory
        self.name = name or getattr(fn, "__name__", type(fn).__name__)
        self.dynamic, self.told = dynamic, False
        self.whole = whole
        self.refused: list[Key] = []  # calls that can't be captured, where that is no error
        self.entries: list[Entry] = []
        self.captures = 0
        self.watchers: list[Any] = []  # see `kiln.watch`
        self.own: list[Tensor] = []  # arguments that the function reaches by itself as well
        self.lock = own_lock(self, threading.RLock)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if CAPTURING:
            if active_capture() is not None:
                return self.fn(*args, **kwargs)  # its ops join the Graph of the function around it
            event = begin_call(f"CompiledFunction: {self.name}", PROGRAM) if RECORDING else None
            if event is not None:
                out = None
                try:
                    out = self(*args, **kwargs)
                    return out
                finally:
                    end(event, (*args, kwargs), out)
            if ANOMALY:
                return self._run(args, kwargs)
        try:
            for entry in self.entries:
                leaves = entry.match(args, kwargs)
                if leaves is not None:
                    plan = entry.root.plan
                    if plan is None:
                        plan = self._resolve(entry, leaves)
                    return plan.run(leaves)
        except Aliased:
            return self._run(args, kwargs, aliased=True)
        except Eagerly:
            return self.fn(*args, **kwargs)
        return self._run(args, kwargs)

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any], aliased: bool = False) -> Any:
        """A call that no entry knows at a glance, or that anomaly mode looks at."""
        try:
            plan, leaves = self.find(args, kwargs, aliased)
            return ANOMALY[0].run_plan(self, plan, leaves) if ANOMALY else plan.run(leaves)
        except Aliased:
            if aliased:
                raise
        except Eagerly:
            return self.fn(*args, **kwargs)
        return self._run(args, kwargs, aliased=True)

    def find(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], aliased: bool = False
    ) -> tuple[Plan, tuple[Any, ...]]:
        """The plan for a call, and its argument leaves: looks at everything, and captures where nothing serves.

        `aliased` says that it writes arguments that share memory. Raises Eagerly where the call runs in eager mode.
        """
        found: list[Any] = []
        structure = flatten((args, kwargs), found)
        facts = tuple(self._fact(x) for x in found)
        leaves = tuple(map(passed, facts, found))
        key = Key(
            structure,
            facts,
            shared(leaves),
            stretches(leaves) if aliased else (),
            mode.grad,
            mode.inference,
            dt.get_default_dtype(),
            self.backend or config.backend,
            config.float32_matmul_precision,
            ACTIVE.get(get_ident()),
        )
        reasons = []
        for entry in self.entries:
            if entry.key == key:
                why = entry.broken(leaves)
                if why is None:
                    if "match" not in entry.__dict__:
                        entry.write_match()
                    return self._resolve(entry, leaves), leaves
                reasons.append(why)
        if key in self.refused or self._varies(key):
            raise Eagerly
        with self.lock:
            entry = Entry(key, self.backend)
            if config.explain:
                self._explain(key, reasons)
            try:
                plan = self._resolve(entry, leaves)
            except Reached as e:
                self.own.append(e.tensor)
            else:
                self.entries.insert(0, entry)
                del self.entries[config.max_paths * 4 :]
                return plan, leaves
        return self.find(args, kwargs, aliased)

    def _varies(self, key: Key) -> bool:
        """Whether sizes change too often for one more to be captured: eager mode's kernels serve them all."""
        if self.dynamic is False or config.deterministic:
            return False
        like = key.but_for_sizes()
        known: list[Key] = []
        for e in self.entries:
            if e.key != key and e.key not in known and e.key.but_for_sizes() == like:
                known.append(e.key)
        if len(known) < config.max_sizes:
            return False
        if not self.told and not self.dynamic:
            self.told = True
            self._warn(
                f"was captured for {len(known)} sizes of its arguments; calls with others run "
                "in eager mode (KILN_MAX_SIZES; dynamic=True if that is meant, dynamic=False captures all)"
            )
        return True

    def _fact(self, x: Any) -> Any:
        return Same(x) if any(x is t for t in self.own) else leaf_fact(x)

    def _resolve(self, entry: Entry, leaves: tuple[Any, ...]) -> Plan:
        """The plan for these arguments; raises Eagerly where there can be none and none must be."""
        try:
            return self._follow(entry, leaves)
        except CaptureError as e:
            if self.whole:
                raise
            self._give_up(entry, e)
            raise Eagerly from None

    def _give_up(self, entry: Entry, why: CaptureError) -> None:
        """Remember that calls with these facts run in eager mode, and say so."""
        with self.lock:
            if entry in self.entries:
                self.entries.remove(entry)
            del self.refused[: -config.max_paths]
            if not self.refused:
                what, received, _ = str(why).split("\n")
                self._warn(
                    f"runs in eager mode, as it can't be captured whole: {what}; {received} "
                    "(fullgraph=True makes this an error)"
                )
            self.refused.append(entry.key)

    def _follow(self, entry: Entry, leaves: tuple[Any, ...]) -> Plan:
        """The plan for these arguments: follows the branches, capturing paths not seen yet."""
        path, decisions = entry.root, ()
        while path.plan is None:
            if path.predicate is None:
                with self.lock:
                    if path.plan is None and path.predicate is None:
                        with _collector_resting(), block(f"capturing {self.name}", COMPILE):
                            self._capture(entry, path, decisions, leaves)
                continue
            path.apart.check(leaves)
            outcome = bool(path.predicate.run([i.fetch(leaves) for i in path.reads])[0])
            if outcome not in path.children:
                if max(entry.root.count(), len(decisions)) >= config.max_paths:
                    raise CaptureError(
                        "compile", f"more than {config.max_paths} paths through branches on tensor values", path.line,
                        "use kiln.where or a masked form instead of the branch, or raise KILN_MAX_PATHS",
                    )  # fmt: skip
                if config.explain:
                    self._say(f"a new path: the branch at {path.line} went {outcome}")
                path.children[outcome] = Path()
            path = path.children[outcome]
            decisions = (*decisions, outcome)
        return path.plan

    def _capture(
        self,
        entry: Entry,
        path: Path,
        decisions: tuple[bool, ...],
        leaves: tuple[Any, ...],
    ) -> None:
        """Capture along the decisions made so far; ends in a plan, or at the next branch."""
        self.captures += 1
        structure = entry.key.structure
        capture, facts = Capture(decisions), Facts(self.fn, self.whole)
        capture.stop = CompiledFunction._capture.__code__
        try:
            with capture.active():
                for stretch in entry.key.stretches:
                    capture.gather(stretch, leaves)
                numbered = iter(range(len(leaves)))
                given: list[Any] = []

                def leaf() -> Any:
                    i = next(numbered)
                    x = leaves[i]
                    fact = entry.key.facts[i]
                    if isinstance(fact, Same):
                        x = fact.object
                        facts.argument(x)
                    elif isinstance(x, Tensor):
                        x = capture.argument(_fresh(x), i)
                    given.append(x)
                    return x

                args, kwargs = unflatten(structure, leaf)
                try:
                    with facts.watching() as capture.hook:
                        result = self.fn(*args, **kwargs)
                except Branch:
                    self._check_containers((args, kwargs), structure, given)
                    raise
                self._check_containers((args, kwargs), structure, given)
                capture.settle()
                capture.check()
                guards = facts.settle(capture.arrays())
                plan = Plan(capture, result, self._program, self.name, len(leaves), self.watchers)
            entry.learn(capture, guards)
            path.plan = plan
            capture.kept = True
        except Branch as b:
            apart = Apart(capture.inputs, capture.written())
            guards = facts.settle(capture.arrays())
            graph = Graph([i.node for i in capture.inputs], [b.node])
            predicate = self._program(graph, self.name + ".branch")
            capture.restore()
            entry.learn(capture, guards)
            path.reads, path.line, path.predicate = capture.inputs, b.where, predicate
            path.apart = apart
        except BaseException:
            capture.undo()
            facts.undo()
            raise
        finally:
            capture.restore()

    def _program(self, graph: Graph, name: str, steady: Sequence[int] = ()) -> base.Program:
        """A Graph made executable as this function's options say; `steady` as in `Backend.compile`."""
        backend = base.get(self.backend or config.backend)
        return backend.compile(graph, name, self.max_memory, steady)

    def rewatch(self) -> None:
        """Follow a change of `watchers`."""
        with self.lock:
            for e in self.entries:
                for plan in e.root.plans():
                    plan.rewatch()

    def memory_stats(self) -> dict[str, int]:
        """What the programs captured so far hold, each of them until this function goes.

        "programs" is their number, "peak_bytes" what the largest one holds beside its inputs and the
        results that it returns (see `kiln.compile`'s `max_memory`), "held_bytes" the sum over all, "kept_bytes"
        what of that it has computed of parameters alone and keeps from call to call.
        """
        programs = [p for e in self.entries for p in e.root.programs()]
        sizes = [p.memory_bytes for p in programs]
        return {
            "programs": len(sizes),
            "peak_bytes": max(sizes, default=0),
            "held_bytes": sum(sizes),
            "kept_bytes": sum(p.kept_bytes for p in programs),
        }

    def _check_containers(self, args: Any, structure: Any, given: list[Any]) -> None:
        """Refuse a function that changes lists or dicts among its arguments: replays would not."""
        now: list[Any] = []
        if flatten(args, now) != structure or any(
            a is not b for a, b in zip(now, given, strict=False)
        ):
            raise CaptureError(
                "compile", "the function changes a list, dict or other container that it was given", self.name,
                "return the new values instead, or copy the container first",
            )  # fmt: skip

    def _warn(self, text: str) -> None:
        """A warning at the user's line that called."""
        level, frame = 1, sys._getframe()
        while frame.f_back is not None and frame.f_globals["__name__"].startswith(_KILN):
            level, frame = level + 1, frame.f_back
        warnings.warn(f"kiln.compile: {self.name} {text}", stacklevel=level)

    def _say(self, text: str) -> None:
        print(f"[kiln.compile] {self.name}: {text}", file=sys.stderr)

    def _explain(self, key: Key, reasons: list[str]) -> None:
        if not self.entries:
            self._say("captured for the first time")
        elif reasons:
            self._say("captured again: " + "; ".join(reasons))
        else:
            old, new = self.entries[0].key.facts, key.facts
            changed = [
                f"argument {i}: {a} became {b}"
                for i, (a, b) in enumerate(zip(old, new, strict=False))
                if a != b
            ]
            self._say(
                "captured again: "
                + ("; ".join(changed) or "the arguments' structure or the grad mode changed")
            )

    def __get__(self, obj: Any, cls: Any = None) -> Any:
        return self if obj is None else functools.partial(self, obj)

    def __repr__(self) -> str:
        return f"<compiled {self.name}: {self.captures} captures>"


def compile(
    model: Callable | None = None, *, fullgraph: bool | None = None, dynamic: bool | None = None, backend: str | None = None,
    mode: str | None = None, options: Any = None, disable: bool = False,
    max_memory: int | str | None = None,
) -> Any:  # fmt: skip
    """A function (or module) captured whole at its first call and replayed as one native program.

    Captured again where shapes, dtypes or Python values that it read differ; `KILN_EXPLAIN=1` says
    why. `backend` is "cpu" or "reference" (default: `KILN_BACKEND`), PyTorch's "inductor" being the first and
    "eager" and "aot_eager" the second. Whole training steps, with
    `backward()` and `optimizer.step()` inside, are one program. `mode` (one of PyTorch's)
    and `options` are accepted for PyTorch's sake: every mode is the
    same, as the forms of kernels follow from shapes by rules that measurements were made for.

    What can't be captured, such as reading a value out or Python's own random numbers, is an error that
    names the line. With `fullgraph=False`, PyTorch's default and so the default in programs run as PyTorch's, such
    calls run in eager mode instead, with one warning; so do those that print.

    Sizes of arguments that change from call to call, such as lengths of sequences, are captured `KILN_MAX_SIZES`
    times; after that, with a warning, calls with new sizes run in eager mode, whose kernels serve sizes of all
    kinds: nothing is compiled again for a new length. `dynamic=True` says that this is meant, without a warning;
    `dynamic=False` captures each.

    `max_memory`, in bytes or as "512MB" (10**6) or "2GiB" (2**30), is the most that one program may hold
    beside what it is given and what it returns: values between its kernels, their scratch memory and
    constants. Not counted are arguments, parameters, optimizer state and results, gradients left in
    `.grad` among them; where backward runs outside, neither is what forward hands to it, and the limit
    holds for each of the two programs. Counted is what is kept of parameters from call to call, unless the
    limit can only be met without. To meet it, values that wait long for their next use are computed
    again, those first that free most bytes for their work: results keep every bit, steps take longer.
    `memory_stats()` of the compiled function tells what is held.
    Errors: KilnError for a mode that PyTorch does not know, or one beside options; CaptureError;
    KilnMemoryError at the first call where the limit can't be met.
    """
    _check_mode(mode, options)
    limit = None if max_memory is None else bytes_of(max_memory, "compile", "max_memory")
    if model is None:
        return lambda fn: compile(
            fn, fullgraph=fullgraph, dynamic=dynamic, backend=backend, disable=disable, max_memory=max_memory
        )  # fmt: skip
    if not callable(model):
        raise KilnTypeError(
            "compile", "expected a function or a module", describe(model), "pass a callable"
        )
    if backend is not None:
        backend = _BACKENDS.get(backend, backend) if isinstance(backend, str) else backend
        base.get(backend)
    if disable:
        return model
    from ..nn.modules.module import Module

    whole = naming.name != "torch" if fullgraph is None else bool(fullgraph)
    if isinstance(model, Module):
        return model.compiled(
            CompiledFunction(model.__call__, backend, type(model).__name__, limit, dynamic, whole)
        )
    return CompiledFunction(model, backend, max_memory=limit, dynamic=dynamic, whole=whole)


_BACKENDS = {
    "aot_eager": "reference", "aot_eager_decomp_partition": "reference", "cudagraphs": "cpu", "eager": "reference",
    "inductor": "cpu",
}  # fmt: skip
"""PyTorch's names of backends: those that compile, and those that run ops one after the other."""

_MODES = (
    "default", "lite", "reduce-overhead", "max-autotune-no-cudagraphs", "max-autotune",
)  # fmt: skip


def _check_mode(mode: Any, options: Any) -> None:
    if mode is not None and options is not None:
        raise KilnError("compile", "either mode or options can be given, not both",
                        f"mode={describe(mode)}, options={describe(options)}", "leave one of them out")  # fmt: skip
    if mode is not None and mode not in _MODES:
        raise KilnError("compile", "no such mode", f"mode={describe(mode)}",
                        "one of " + ", ".join(_MODES) + ", which are all the same here")  # fmt: skip
