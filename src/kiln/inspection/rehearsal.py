"""A training step on meta tensors: which layers are called, the operations, and what lies in memory when.

Note [Rehearsals]
The step runs as it would in eager mode, forward and backward, on a twin of the model whose parameters and inputs are meta
tensors (Note [Watched meta tensors]): nothing is computed and the model is left as it is. What is kept for backward is what the
tape keeps, and it is free when the tape lets go. The values inside of one op's gradient don't count, as rules on large
arrays are fused kernels. What kernels need while they run is asked of the programs that eager mode would run, which are planned
for that, not compiled; and memory of dead results is kept for new ones by the rules of `runtime.blocks`.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from threading import get_ident
from typing import Any

import numpy as np

from ..autograd.modes import enable_grad, no_grad
from ..autograd.tape import AccumulateGrad, OpNode
from ..backends import scratch
from ..compile import compile
from ..config import config
from ..device import META, device
from ..errors import KilnError, describe
from ..meta import WATCHING, without_data
from ..nn.modules.module import Module
from ..nn.parameter import Parameter, is_lazy
from ..recording import flops
from ..runtime.blocks import SMALL, rounded
from ..tensor import Tensor, wrap

BACKWARD, GRADIENTS = "backward", "gradients"
IDLE, SCRATCH = "memory kept for reuse", "scratch memory of kernels"


def tensors(x: Any) -> Iterator[Tensor]:
    """The tensors in containers."""
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, dict):
        yield from tensors(list(x.values()))
    elif isinstance(x, list | tuple):
        for y in x:
            yield from tensors(y)


def nbytes(found: Any) -> int:
    """The bytes of tensors."""
    return sum(t.numel() * t.dtype.itemsize for t in found)


def twin(model: Module, more: Any = None, data: bool = False) -> tuple[Module, Any]:
    """Copies of a model, and of what refers to its parameters: without data, or with memory that nobody has touched."""
    memo: dict[int, Any] = {}
    for m in model.modules():
        held = [*m._parameters.values(), *m._buffers.values(), *vars(m).values()]
        for t in held:
            if isinstance(t, Tensor) and not is_lazy(t):
                memo[id(t)] = _like(t, data)
    for state in getattr(more, "state", {}).values():
        for t in tensors(state):
            memo[id(t)] = _like(t, data)
    return copy.deepcopy(model, memo), copy.deepcopy(more, memo)


def _like(t: Tensor, data: bool) -> Tensor:
    out = untouched(t) if data else without_data(t)
    if isinstance(t, Parameter):
        return type(t)(out, t.requires_grad)
    return out.requires_grad_(t.requires_grad)


def untouched(x: Any) -> Any:
    """Tensors, and containers of them, in memory of their own that the system gives when it is touched: none is."""
    if isinstance(x, Tensor):
        return wrap(np.empty(x.shape, x.dtype.np))
    if isinstance(x, dict):
        return {k: untouched(v) for k, v in x.items()}
    return type(x)(map(untouched, x)) if isinstance(x, list | tuple) else x


class Compiled:
    """A compiled step that is captured and planned, but not run: `program` is what its program holds, `results` what it returns, in bytes.

    `step` is called with `inputs` and may reach tensors of `twin(…, data=True)`.
    """

    def __init__(self, step: Callable[..., Any], inputs: Any):
        run = compile(step)
        plan, _ = run.find((untouched(inputs),), {})
        self.program = run.memory_stats()["peak_bytes"]
        kept = {k[1] for _, k in plan.grads if k is not None}
        outputs = [
            n for k, n in enumerate(plan.graph.outputs) if k in plan.visible and k not in kept
        ]
        self.results = nbytes(outputs)


def _nodes(node: Any) -> list[Any]:
    """The nodes of a history that gradients go through."""
    found, todo = {}, [node]
    while todo:
        n = todo.pop()
        if n is not None and id(n) not in found and not isinstance(n, AccumulateGrad):
            found[id(n)] = n
            todo += [to for to, _ in n.next_functions]
    return list(found.values())


def total(output: Any, loss: Callable[[Any], Any] | None) -> Any:
    """What backward begins at: the loss of an output, or the sum of all of it; None where there is nothing to differentiate."""
    if loss is not None:
        return loss(output)
    roots = [t for t in tensors(output) if t.requires_grad]
    return sum((t.sum() for t in roots[1:]), roots[0].sum()) if roots else None


class Layer:
    """What a rehearsal has seen of a module."""

    def __init__(self, path: str, module: Module):
        self.path, self.module = path, module
        self.calls, self.flops, self.kept = 0, 0, 0
        self.output: Any = None


class Allocator:
    """What the memory of arrays comes to as eager mode gives and takes it: `bytes` in all, of which no array lies in `idle`.

    Large ones lie in blocks, of which dead ones are kept for arrays of like size (`runtime.blocks`), all others on the C library's
    heap, which keeps what it has had.
    """

    def __init__(self) -> None:
        self.limit = config.memory_cache_mb << 20
        self.bytes = self.idle = self.kept = self.small = self.heap = 0
        self.free: dict[int, list[int]] = {}  # by rounded size, what was touched of each block
        self.lent: dict[int, tuple[int, int]] = {}

    def take(self, number: int, size: int) -> None:
        """An array of so many bytes."""
        if size < SMALL:
            self.small += size
            self.lent[number] = 0, size
            grown = max(0, self.small - self.heap)
            self.heap += grown
            self.bytes += grown
            self.idle -= size - grown
            return
        kept = self.free.get(rounded(size))
        touched = 0
        if kept:
            touched = kept.pop()
            self.kept -= rounded(size)
        self.idle -= touched
        self.bytes += max(0, size - touched)
        self.lent[number] = rounded(size), max(size, touched)

    def give(self, number: int) -> None:
        """The array is dead."""
        size, touched = self.lent.pop(number)
        self.idle += touched
        if not size:
            self.small -= touched
            return
        self.free[size] = [*self.free.pop(size, ()), touched]
        self.kept += size
        while self.kept > self.limit:
            oldest = next(s for s, kept in self.free.items() if kept)
            gone = self.free[oldest].pop()
            self.kept -= oldest
            self.idle -= gone
            self.bytes -= gone


class _Token:
    """Memory that a meta tensor would have."""

    __slots__ = ("bytes", "number", "watcher")

    def __init__(self, watcher: Rehearsal, number: int, size: int):
        self.watcher, self.number, self.bytes = watcher, number, size

    def __del__(self) -> None:
        self.watcher.log.append((self.number, -self.bytes))


class Rehearsal:
    """A step of a twin, watched.

    `log` tells what memory was taken (bytes above 0) and given back, as (number, bytes); `owners` whose each number is.
    """

    def __init__(self, model: Module):
        self.layers = {m: Layer(path, m) for path, m in model.named_modules()}
        self.model, self.open = model, [self.layers[model].path]
        self.log: list[tuple[int, int]] = []
        self.owners: list[str] = []
        self.phase = ""
        self.flops: Counter[str] = Counter()
        self.output: Any = None
        self.kept = self.scratch = 0
        self.programs: dict[Any, int] = {}  # what compiled functions hold that eager mode runs
        self.tape: list[Any] = []  # memory that the tape keeps until it is thrown away
        self.counting = True

    # ---- what it is told (`meta.WATCHING`)

    @contextmanager
    def unheld(self) -> Iterator[None]:
        """Nothing that is taken meanwhile counts."""
        self.counting = False
        try:
            yield
        finally:
            self.counting = True

    def held(self, size: int) -> _Token | None:
        """Memory that is taken now."""
        if not self.counting:
            return None
        self.owners.append(self.phase or self.open[-1])
        self.log.append((len(self.owners) - 1, size))
        return _Token(self, len(self.owners) - 1, size)

    def called(self, op: Any, args: tuple, out: Any) -> None:
        """An op."""
        self.scratch = max(self.scratch, scratch.of_call(op, args))
        n = flops(op.name, args, out[0] if isinstance(out, tuple) and len(out) == 1 else out)
        self.flops[self.phase] += n
        if not self.phase and n:
            self._at[self.open[-1]].flops += n

    # ---- the step

    def run(self, args: tuple, kwargs: dict, loss: Callable[[Any], Any] | None, train: bool) -> None:  # fmt: skip
        """Forward, and with `train` backward from `loss(output)`, or from the sum of the outputs without one."""
        self._at = {layer.path: layer for layer in self.layers.values()}
        me, model = get_ident(), self.model
        model.train(train)
        if any(map(is_lazy, model.parameters())):  # what it makes is no activation
            with device(META), no_grad(), self._hooked():
                model(*args, **kwargs)
            self.layers = {m: Layer(layer.path, m) for m, layer in self.layers.items()}
            self._at = {layer.path: layer for layer in self.layers.values()}
        WATCHING[me] = self
        try:
            with device(META), enable_grad() if train else no_grad(), self._hooked():
                self.output = model(*args, **kwargs)
                self._note_kept()
                self.phase = BACKWARD
                if train:
                    self._backward(loss)
        finally:
            del WATCHING[me]

    def _backward(self, loss: Callable[[Any], Any] | None) -> None:
        self.phase = "loss"
        value = total(self.output, loss)
        self.phase = BACKWARD
        if isinstance(value, Tensor) and value.requires_grad:
            for node in _nodes(value.grad_fn):
                node.register_prehook(partial(self._rule_begins, node))
                node.register_hook(self._rule_ends)
            value.backward()
        for p in self.model.parameters():
            token = None if p.grad is None else p.grad._a.memory
            if token is not None:
                self.owners[token.number] = GRADIENTS

    def _rule_begins(self, node: Any, gs: Any) -> None:
        if isinstance(node, OpNode):
            self.scratch = max(self.scratch, scratch.of_gradients(node, gs))
        self._rule = len(self.log)

    def _rule_ends(self, *_: Any) -> None:
        """Forget what was taken and given back meanwhile."""
        given_back = {n for n, size in self.log[self._rule :] if size <= 0}
        taken = {n for n, size in self.log[self._rule :] if size > 0}
        gone = taken & given_back
        self.log[self._rule :] = [e for e in self.log[self._rule :] if e[0] not in gone]

    @contextmanager
    def _hooked(self) -> Iterator[None]:
        """Layers tell when they are entered and left."""

        def enter(m: Module, *_: Any) -> None:
            self.open.append(self.layers[m].path)

        def leave(m: Module, _: Any, out: Any) -> None:
            self.open.pop()
            layer = self.layers[m]
            layer.calls += 1
            if layer.calls == 1:
                layer.output = [(tuple(t.shape), t.dtype) for t in tensors(out)]

        handles = [h for m in self.layers for h in (
            m.register_forward_pre_hook(enter, prepend=True), m.register_forward_hook(leave))]  # fmt: skip
        try:
            yield
        except (KilnError, ValueError, TypeError, IndexError, RuntimeError) as e:
            where = self.open[-1] or type(self.model).__name__
            if isinstance(e, NotImplementedError):
                raise KilnError(
                    "summary", f"the model can't run without data: {where} reads a value", str(e).partition("\n")[0],
                    "choices by value belong into kiln.where or kiln.cond",
                ) from e  # fmt: skip
            e.add_note(f"[summary] while {where} ran on meta tensors")
            raise
        finally:
            for h in handles:
                h.remove()

    # ---- memory

    def _note_kept(self) -> None:
        """What is kept for backward at the end of forward, by layer."""
        alive: Counter[int] = Counter()
        for number, size in self.log:
            alive[number] += size
        self.kept = sum(alive.values())
        for number, size in alive.items():
            self._at[self.owners[number]].kept += size

    def peak(self) -> Counter[str]:
        """Who holds how many bytes at the fullest moment, beside what was there before.

        Of three such steps: what they keep of dead results is `IDLE`.
        """
        memory, peak, most, at = Allocator(), 0, -1, 0
        for _ in range(3):
            alive = set()
            for i, (number, size) in enumerate(self.log):
                if size > 0:
                    memory.take(number, size)
                    alive.add(number)
                elif number in alive:
                    memory.give(number)
                    alive.remove(number)
                peak = max(peak, memory.bytes)
                if memory.bytes - memory.idle > most:
                    most, at = memory.bytes - memory.idle, i + 1
            for number in alive:
                memory.give(number)
        out: Counter[str] = Counter()
        for number, size in self.log[:at]:
            out[self.owners[number]] += size
        out[IDLE], out[SCRATCH] = peak - most, self.scratch + sum(self.programs.values())
        return out


def optimizer_state(optimizer: Any) -> int:
    """The bytes of an optimizer's state after a step on meta tensors with gradients."""
    try:
        with device(META):
            optimizer.step()
    except (KilnError, TypeError) as e:
        raise KilnError(
            "summary", f"{type(optimizer).__name__} can't step without data, so that its state is not known",
            str(e).partition("\n")[0], "leave optimizer= out",
        ) from e  # fmt: skip
    return nbytes(t for s in optimizer.state.values() for t in tensors(s))


def example(spec: Any, dtype: Any) -> Any:
    """Inputs on meta of a shape, (shape, dtype), tensors or arrays, or of containers of these."""
    from ..ops.creation import as_tensor, empty

    if isinstance(spec, Tensor):
        return without_data(spec)
    if hasattr(spec, "__array__"):
        return without_data(as_tensor(spec))
    if isinstance(spec, dict):
        return {k: example(v, dtype) for k, v in spec.items()}
    if isinstance(spec, list | tuple):
        if is_shape(spec):
            return empty(*spec, dtype=dtype, device=META)
        if len(spec) == 2 and is_shape(spec[0]) and hasattr(spec[1], "itemsize") and not isinstance(spec[1], Tensor):  # fmt: skip
            return empty(*spec[0], dtype=spec[1], device=META)
        return type(spec)(example(x, dtype) for x in spec)
    if spec is None or isinstance(spec, bool | str | float):
        return spec
    raise KilnError(
        "summary", "an input is a shape, a tensor or an array", describe(spec), "e.g. (1, 3, 224, 224)"
    )  # fmt: skip


def is_shape(x: Any) -> bool:
    """Whether something is a sequence of ints."""
    return isinstance(x, list | tuple) and all(type(d) is int for d in x)
