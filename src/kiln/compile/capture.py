"""Capture: running a Python function once with symbolic tensors to get a Graph.

Tensors that the function reaches are found by identity and become inputs; memory that it writes
becomes updates of those inputs. In-place ops and views are functionalised: a `Storage` is one piece
of memory and holds the node of its present value; a tensor is a chain of view ops on a storage.
"""

from __future__ import annotations

import functools
import sys
from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import get_ident
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from .. import dtypes as dt
from ..autograd import passes
from ..autograd.tape import Through, edge_of, next_seq, record
from ..autograd.views import tie
from ..errors import CaptureError, KilnError, describe
from ..formats import channels_order
from ..graph.node import Node, const, input_node, item, literal, make
from ..ops.registry import REGISTRY, Op
from ..places import Place, here
from ..shape import dummy_array, view_strides
from ..tensor import CAPTURING, Tensor, _fresh, wrap
from .building import build
from .inputs import Input, may_share
from .interrupts import Branch, Reached
from .stretches import Stretch
from .symbolic import Storage, SymArray, layout_of, may_overlap, result_layout

_KILN = __name__.split(".")[0] + "."
_ABSENT = object()


def _unwatched(method: Callable) -> Callable:
    """A method during which the hook that looks at the user's frames (`facts`) rests.

    It runs Kiln's code alone; a hook at each of its many calls made a capture five times as long.
    """

    @functools.wraps(method)
    def run(self: Capture, first: Any, *rest: Any) -> Any:
        hook = self.hook
        if hook is None or sys.getprofile() is not hook or _foreign(first):
            return method(self, first, *rest)
        sys.setprofile(None)
        try:
            return method(self, first, *rest)
        finally:
            sys.setprofile(hook)

    return run


def _foreign(op: Any) -> bool:
    """Whether this is an op from elsewhere, whose rules may be the user's own code."""
    return isinstance(op, Op) and not op.reference.__module__.startswith(_KILN)


class Outside(Through):
    """The history that an argument has outside: passes gradients on to the leaf that stands for it."""

    __slots__ = ()


class Capture:
    """A capture under way on one thread."""

    def __init__(self, decisions: tuple[bool, ...] = (), constants: bool = False):
        self.constants = (
            constants  # concrete tensors are constants, not state (inside an op's body)
        )
        self.hook: Any = None  # looks at the frames that the user's function enters
        self.inputs: list[Input] = []
        self.storages: dict[
            int, tuple[SymArray, Any]
        ] = {}  # by id of a concrete array, which is kept alive
        self.grads: dict[
            int, tuple[Tensor, Any, bool]
        ] = {}  # tensors whose .grad was read or written
        self.watched: dict[int, tuple[Any, Any]] = {}  # owners of Python facts
        self.hosts: dict[tuple[int, Any], Tensor] = {}
        self.decisions, self.branches = decisions, []  # values of Python branches, and their nodes
        self.requires: list[
            tuple[Tensor, tuple]
        ] = []  # tensors reached, and their history as it was
        self.stand_ins: dict[
            int, tuple[int, Tensor, Tensor]
        ] = {}  # (leaf, stand-in, argument) by id of the stand-in
        self.hidden: list[
            tuple[Tensor, int, Tensor]
        ] = []  # (leaf behind a stand-in, number of the argument, argument)
        self.given: set[int] = set()  # arguments that require grad, by id
        self.arg_grads: dict[
            int, Tensor | None
        ] = {}  # by leaf: the stand-in's .grad before the call
        self.aliases: dict[
            int, tuple[Tensor, Input]
        ] = {}  # tensors that have the memory of an input found before
        self.pinned: list[tuple[Tensor, np.ndarray]] = []  # tensors that must keep their memory
        self.failure: CaptureError | None = None
        self.rebound: dict[
            tuple[int, str], tuple[dict, str, Any]
        ] = {}  # attributes, and what they held
        self.scratch: dict[Any, Any] = {}  # what helpers keep for as long as the function runs
        self.made: list[tuple[dict, Any]] = []  # state made meanwhile, as (table, key)
        self.stop: Any = None  # the code below whose frame the captured function runs
        self.trail: list[Place] = []  # where nodes were made, in that order
        self.places: dict[Node, Place] = {}  # by node: a node's own `source` may be an equal node's
        self.kept = False  # whether a Program came of it
        self.done = False
        self.valueless = (
            False  # whether nobody wants values, numbers drawn included: see Note [Meta tensors]
        )

    # ---- entering and leaving

    @contextmanager
    def active(self) -> Iterator[Capture]:
        """Make this the capture of the thread."""
        me = get_ident()
        outer = CAPTURING.get(me)
        CAPTURING[me] = self
        try:
            yield self
        finally:
            self.done = True
            if outer is None:
                del CAPTURING[me]
            else:
                CAPTURING[me] = outer

    def where(self) -> Place:
        """The user's line that runs now: `file.py:12 in step`, and what belongs to it (Note [Places])."""
        at, node = here(self.stop, passes.on_tensors.__code__, self.stop is not None)
        at.order = (
            next_seq()
        )  # nodes of the tape are numbered alike: what is recorded next comes next
        if node is not None:
            before = bisect(self.trail, node.seq, key=lambda p: p.order)
            if before:
                at.follow(self.trail[before - 1], node.name())
        self.trail.append(at)
        return at

    def refuse(self, what: str) -> None:
        """Raise for something that a captured function cannot do."""
        self.failure = CaptureError(
            "compile", f"{what}: a value is read into Python while the function is captured",
            self.where(), "return the tensor and read it outside, or use kiln.where for a choice by value",
        )  # fmt: skip
        raise self.failure

    # ---- inputs

    def _input(self, kind: str, shape: Any, dtype: dt.dtype, name: str = "", **facts: Any) -> Input:
        node = input_node(len(self.inputs), shape, dtype, name)
        out = Input(kind, len(self.inputs), node, **facts)
        self.inputs.append(out)
        return out

    def argument(self, t: Tensor, leaf: int) -> Tensor:
        """A symbolic stand-in for an argument tensor."""
        known = self.storages.get(id(t._a))
        if known is not None:
            sym = known[0]
        else:
            sym = self._memory("arg", t._a, t.dtype, f"arg{leaf}", tensor=t, leaf=leaf)
        out = wrap(sym)
        out._rg = t._rg
        if (
            t._fn is not None
        ):  # no leaf, so that it can be changed in place; the leaf is hidden behind it
            inside = wrap(sym)
            inside._rg = True
            out._fn = Outside([edge_of(inside)], 1)
            self.hidden.append((inside, leaf, t))
        self.stand_ins[id(out)] = (leaf, out, t)
        if t._rg:
            self.given.add(id(t))
        return out

    def gather(self, stretch: Stretch, leaves: Sequence[Any]) -> None:
        """Have arguments that lie in one stretch of memory be views of one input."""
        if stretch.why:
            raise CaptureError(
                "compile", f"the function writes a tensor that shares memory with another one in a way Kiln can't follow: {stretch.why}",
                ", ".join(f"argument {n}: {describe(leaves[n])}" for n, _, _ in stretch.places),
                "pass one of them and take the view inside the function",
            )  # fmt: skip
        flat = stretch.array(leaves)
        dtype = dt.OF_NUMPY[flat.dtype]
        i = self._input("stretch", flat.shape, dtype, "stretch", stretch=stretch)
        i.array = flat
        storage, memory = Storage(i.node, i), np.zeros(flat.size, np.uint8)
        for leaf, offset, chain in stretch.places:
            a = leaves[leaf]._a
            layout = as_strided(memory[offset:], a.shape, [s // a.itemsize for s in a.strides])
            self.storages[id(a)] = (
                SymArray(self, storage, chain, a.shape, a.dtype, layout), a,
            )  # fmt: skip

    def outside(self, t: Tensor) -> Tensor | int:
        """What a leaf of the history inside is outside: an argument's number, or the tensor itself."""
        for inside, leaf, _ in self.hidden:
            if inside is t:
                return leaf
        known = self.stand_ins.get(id(t))
        return t if known is None else known[0]

    def _memory(self, kind: str, a: np.ndarray, *facts: Any, **more: Any) -> SymArray:
        """The payload of an input's memory."""
        dims = channels_order(a)
        shape = a.shape if dims is None else tuple(a.shape[d] for d in dims)
        i = self._input(kind, shape, *facts, **more)
        i.order, i.array = dims, a
        storage = Storage(i.node, i, not a.flags.writeable)
        sym = SymArray(self, storage, i.chain, a.shape, a.dtype, layout_of(a))
        self.storages[id(a)] = (sym, a)
        return sym

    def payload(self, t: Tensor) -> SymArray:
        """The symbolic payload of any tensor; a concrete one becomes a state input."""
        a = t._a
        if isinstance(a, SymArray):
            if a.capture is not self:
                if a.capture.done:
                    a.refuse("use")
                raise CaptureError(
                    "compile",
                    "a tensor of another capture is used",
                    describe(t),
                    "return it instead",
                )
            return a
        if not isinstance(a, np.ndarray):
            raise CaptureError(
                "compile", "a loop or a branch of a captured function is reached by a batch of vmap", describe(t),
                "map over the function that holds it, or take the rows of a Jacobian one by one (chunk_size=1)",
            )  # fmt: skip
        if id(t) in self.given:
            raise Reached(t)
        known = self.storages.get(id(a))
        if known is not None:
            origin = known[0].storage.origin
            if origin is not None and origin.kind == "stretch":
                raise CaptureError(
                    "compile", "the function reaches an argument that shares memory with another one by itself, too",
                    describe(t), "pass it as the argument alone",
                )  # fmt: skip
            mine = (
                origin is None
                or (origin.kind == "state" and origin.tensor is t)
                or origin.kind == "grad"
            )
            if not mine and known[0].chain == origin.chain:
                self.aliases[id(t)] = (t, origin)  # type: ignore[assignment]
            return known[0]
        if self.constants:
            sym = self._fresh(const(a.item(), t.dtype) if a.shape == () else literal(a))
        elif (
            t._base is not None
            and t._view is not None
            and t._base._a is not a
            and self._holds(t._base, a)
        ):
            sym = self.payload(t._base)
            for name, rest in t._view:
                sym = self._view(REGISTRY[name], sym, rest)
            self.pinned += [(t, a), (t._base, t._base._a)]
            self.requires.append((t, (t._fn, t._idx, t._rg)))
        else:
            self.requires.append((t, (t._fn, t._idx, t._rg)))
            return self._memory("state", a, t.dtype, tensor=t)
        self.storages[id(a)] = (sym, a)
        return sym

    @staticmethod
    def _holds(base: Tensor, a: np.ndarray) -> bool:
        """Whether a view's memory is still its base's, which may have been given other memory (`.data = …`)."""
        return isinstance(base._a, SymArray) or not a.size or may_share(base._a, a)

    def detached(self, t: Tensor) -> SymArray:
        """`payload` without history, which payloads here never have."""
        return self.payload(t)

    @property
    def capture(self) -> Capture:
        """The capture beneath levels of vmap: this one."""
        return self

    def lift(self, op: Op, args: tuple) -> tuple:
        """The arguments of an op as a level of vmap would have them: as they are."""
        return args

    def beside(self, x: Tensor, t: Tensor) -> Tensor:
        """A new tensor made for x, as a level of vmap would have it: as it is."""
        return t

    def drawn(self, words: Any) -> Any:
        """How many words of a random stream a draw of so many takes: a level of vmap may draw more."""
        return words

    def own(self, t: Tensor) -> Tensor:
        """The tensor as ops of this capture see it: the body of a loop has stand-ins for those from outside."""
        return t

    def host_scalar(self, owner: Any, key: Any) -> Tensor:
        """`owner[key]`, a number that is read again at every call, as a 0-d float64 tensor."""
        value = owner[key]
        if isinstance(value, Tensor):
            return value
        found = self.hosts.get((id(owner), key))
        if found is None:
            i = self._input("host", (), dt.float64, str(key), host=(owner, key))
            found = wrap(SymArray(self, Storage(i.node, i), (), (), dt.float64.np))
            self.hosts[(id(owner), key)] = found
        return found

    def watch(self, owner: Any) -> None:
        """Guard the Python facts of a module or an optimizer: `owner.__capture_facts__()`."""
        if id(owner) not in self.watched:
            self.watched[id(owner)] = (owner, owner.__capture_facts__())

    # ---- attributes that the function rebinds

    def rebind(self, table: dict[str, Any], name: str) -> None:
        """Note that a module's attribute is about to hold another tensor."""
        self.rebound.setdefault((id(table), name), (table, name, table.get(name, _ABSENT)))

    def settle(self) -> None:
        """Keep the tensors that attributes hold at the end in memory of theirs, which each replay writes.

        The memory is that of the tensor held before where it fits, so that the next call reads it.
        """
        found = [
            (t, n, old, x) for t, n, old in self.rebound.values() if self._is_ours(x := t.get(n))
        ]
        values = [self._fresh(x._a.node()) for _, _, _, x in found]
        for (table, name, old, _), value in zip(found, values, strict=True):
            if not isinstance(old, Tensor) or (old._a.shape, old._a.dtype) != (
                value.shape,
                value.dtype,
            ):
                old = wrap(np.zeros(value.shape, value.dtype))
            self.write(old, value)
            table[name] = old

    def undo(self) -> None:
        """Take back state that was made for a program that does not come to be."""
        for table, key in self.made:
            table.pop(key, None)

    def restore(self) -> None:
        """Put back gradients and history, and what attributes held where the capture ended early."""
        for t, old, _ in self.grads.values():
            t._grad = old
        for t, (fn, idx, rg) in self.requires:
            t._fn, t._idx, t._rg = fn, idx, rg
        for table, name, old in self.rebound.values():
            if not self.kept or self._is_ours(table.get(name)):
                table.pop(name, None) if old is _ABSENT else table.update({name: old})

    def check(self) -> None:
        """Refuse what a replay could not repeat, at the end of the function."""
        if self.failure is not None:
            raise self.failure
        changed = [t for t, (fn, _, rg) in self.requires if t._fn is not fn or t._rg is not rg]
        moved = {leaf for leaf, _ in self.moved()}
        for leaf, t, x in self.stand_ins.values():
            if (
                (x._base is not None or self._given_twice(t))
                if leaf in moved
                else t._rg is not x._rg
            ):
                changed.append(x)
        for t in changed:
            raise CaptureError(
                "compile", "the function gives a tensor from outside a new history: by an in-place op that is recorded, "
                "or by requires_grad_", describe(t), "update it inside kiln.no_grad(), from detached values",
            )  # fmt: skip
        for inside, _, x in self.hidden:
            if inside._grad is not None:
                raise CaptureError(
                    "compile", "backward inside the function reaches an argument that was computed outside",
                    describe(x), "pass x.detach(), or call backward outside the function",
                )  # fmt: skip

    def moved(self) -> list[tuple[int, Tensor]]:
        """Arguments that have a new history: changed by an in-place op that is recorded."""
        return [
            (leaf, t) for leaf, t, _ in self.stand_ins.values()
            if _fresh(t)._fn is not None and not isinstance(t._fn, Outside)
        ]  # fmt: skip

    def written(self) -> list[Input]:
        """The inputs whose memory the function has written so far."""
        storages = [sym.storage for sym, _ in self.storages.values()]
        return list(dict.fromkeys(s.origin for s in storages if s.written and s.origin is not None))

    def arrays(self) -> list[np.ndarray]:
        """The memory of tensors that the function reached."""
        return [a for _, a in self.storages.values()]

    def _given_twice(self, t: Tensor) -> bool:
        return sum(s._a.storage is t._a.storage for _, s, _ in self.stand_ins.values()) > 1

    def shared(self, found: list[Any]) -> list[Tensor]:
        """Tensors that are not returned but of which several returned views show the same elements."""
        views: dict[Storage, list[Tensor]] = {}
        for x in {id(x): x for x in found if self._is_ours(x)}.values():
            views.setdefault(x._a.storage, []).append(x)
        out = []
        for s, xs in views.items():
            if s.origin is None and all(x._a.chain for x in xs) and may_overlap([x._a for x in xs]):
                tracked = next((x for x in xs if _fresh(x)._rg and x._base is not None), None)
                whole = SymArray(self, s, (), s.value.shape, s.value.dtype.np)
                out.append(wrap(whole) if tracked is None else tracked._base)
        return out

    def _is_ours(self, x: Any) -> bool:
        return isinstance(x, Tensor) and isinstance(x._a, SymArray) and x._a.capture is self

    # ---- gradient fields

    def read_grad(self, t: Tensor) -> Tensor | None:
        """`t.grad` inside the function: what was there before the call, or what the function set."""
        if isinstance(t._a, SymArray):
            known = self.stand_ins.get(id(t))
            if known is not None and known[0] not in self.arg_grads:
                leaf, _, x = known
                if x._grad is not None:
                    t._grad = wrap(self._grad_memory(x, leaf))
                self.arg_grads[leaf] = t._grad
            return t._grad
        if id(t) in self.given:
            raise Reached(t)
        if id(t) not in self.grads:
            old = t._grad
            self.grads[id(t)] = (t, old, True)
            if (
                old is not None
                and not isinstance(old._a, SymArray)
                and id(old._a) not in self.storages
            ):
                self._grad_memory(t, -1)
        return t._grad

    def _grad_memory(self, t: Tensor, leaf: int) -> SymArray:
        """The payload of the gradient that a tensor has before the call."""
        a = t._grad._a  # type: ignore[union-attr]
        known = self.storages.get(id(a))
        if known is not None:
            return known[0]
        return self._memory("grad", a, t._grad.dtype, tensor=t, leaf=leaf)  # type: ignore[union-attr]

    def note_grad(self, t: Tensor) -> None:
        """Remember that the function sets `t.grad`."""
        if isinstance(t._a, SymArray):
            self.read_grad(t)
        elif id(t) in self.given:
            raise Reached(t)
        elif id(t) not in self.grads:
            self.grads[id(t)] = (t, t._grad, False)

    # ---- reading values

    def check_host_read(self, t: Tensor, why: str) -> None:
        """A concrete tensor's value is read by Python: it would be frozen into the program."""
        self.refuse(f"{why} of {describe(t)}")

    def branch(self, t: Tensor) -> bool:
        """The truth value of a tensor: decided by the path being captured."""
        node = make("cast", (self.value(t), dt.bool_)) if t.dtype is not dt.bool_ else self.value(t)
        if node.shape != ():
            node = make("reshape", (node, ()))
        k = len(self.branches)
        if k >= len(self.decisions):
            raise Branch(node, self.where())
        self.branches.append(node)
        return self.decisions[k]

    # ---- ops

    def value(self, x: Any) -> Any:
        """The node of a tensor's present value; other arguments as they are."""
        if isinstance(x, Tensor):
            return self.payload(x).node()
        if isinstance(x, list | tuple) and any(isinstance(y, Tensor) for y in x):
            return tuple(self.value(y) for y in x)
        if isinstance(x, np.ndarray):
            return literal(x)
        return x

    def _fresh(self, node: Node) -> SymArray:
        return SymArray(self, Storage(node), (), node.shape, node.dtype.np)

    def tensor(self, node: Node) -> Tensor:
        """A tensor whose value is a node."""
        return wrap(self._fresh(node))

    @_unwatched
    def compute(self, op: Op, args: tuple) -> Any:
        """The result of an op as a fresh payload (a tuple of them for several outputs)."""
        values = [self.value(a) for a in args]
        node = build(op, values, at := self.where())
        self.places.setdefault(node, at)
        if node.outputs is not None:
            return tuple(self._fresh(item(node, i)) for i in range(len(node.outputs)))
        return self._fresh(node)

    @_unwatched
    def call(self, op: Op, args: tuple) -> Any:
        """Call an op symbolically: the same tape, nodes instead of arrays."""
        if op.view:
            sym = self._view(op, self.payload(args[0]), args[1:])
            if sym is not None:
                return self._wrap_view(op, args, sym)
        format, given = None, args
        if op.name == "clone":  # a Graph knows no order in memory
            format, given = args[1], (args[0], None)
        r = self.compute(op, given)
        if op.lies:
            operands = [self.payload(t) for t in op.flat_tensors(args)]
            for s in r if isinstance(r, tuple) else (r,):
                s.layout = result_layout(op.lies, s.shape, operands, format)
        outs = tuple(wrap(s) for s in r) if isinstance(r, tuple) else (wrap(r),)
        record(op, args, outs)
        if not isinstance(r, tuple):
            return outs[0]
        return op.result(*outs) if op.result is not None else outs

    def _view(self, op: Op, sym: SymArray, rest: tuple) -> Any:
        if op.name == "bitcast":
            raise CaptureError(
                "compile", "view(dtype) can't be captured", self.where(), "use .to(dtype)"
            )
        if op.name == "as_strided":
            self._check_memory(sym, rest[2])
        probe = sym.node()
        assert op.infer is not None
        shape, dtype = op.infer(probe, *rest)
        layout = None
        if op.name == "reshape":
            if sym.layout is not None:
                strides = view_strides(sym.shape, sym.strided().strides, shape)
                if strides is None:
                    return None  # the elements have to be copied
                layout = dummy_array(shape, strides)
        elif op.name not in (
            "as_strided", "real_part", "imag_part", "view_as_real", "view_as_complex",
        ):  # fmt: skip
            layout = op.reference(sym.strided(), *rest)
        return SymArray(self, sym.storage, (*sym.chain, (op.name, rest)), shape, dtype.np, layout)

    def _check_memory(self, sym: SymArray, offset: int | None) -> None:
        """That `as_strided` counts as in eager mode: a Graph's values lie row-major and begin where they do."""
        if not sym.chain and sym.storage.origin is not None and not sym.storage.written:
            return  # an argument as it lies
        whole = offset is None or all(name == "reshape" for name, _ in sym.chain)
        if not whole or (sym.layout is not None and not sym.layout.flags.c_contiguous):
            raise CaptureError(
                "compile", "as_strided can be captured of arguments and of what lies row-major from its memory's start",
                self.where(), "call it on x.contiguous(), or index x",
            )  # fmt: skip

    def _wrap_view(self, op: Op, args: tuple, sym: SymArray) -> Tensor:
        out = wrap(sym)
        tie(op, args, out)
        record(op, args, (out,))
        return out

    @_unwatched
    def write(self, x: Tensor, value: Any) -> None:
        """Store a value in a tensor's memory."""
        sym = self.payload(x)
        if sym.storage.readonly:
            raise KilnError(
                "compile", "this tensor can't be written to: its elements share memory (expand) or it is read-only",
                describe(x), "clone() it first",
            )  # fmt: skip
        node = value.node() if isinstance(value, SymArray) else self.value(value)
        target = dt.OF_NUMPY[sym.dtype]
        if node.dtype is not target:
            node = make("cast", (node, target), self.where())
        s = sym.storage
        if tuple(node.shape) != sym.shape:
            node = make("expand", (node, sym.shape), self.where())
        chain = sym.chain
        while chain and chain[-1][0] == "permute":  # all of what it is a view of, in another order
            back = tuple(map(chain[-1][1][0].index, range(len(node.shape))))
            node, chain = make("permute", (node, back), self.where()), chain[:-1]
        s.value = make("view_update", (s.value, node, chain), self.where()) if chain else node
        s.written = True
        s.cache.clear()
