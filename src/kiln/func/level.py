"""The level of a vmap: where the ops of the mapped function go while it runs.

Note [Levels]: inside `vmap(f)` the thread has a `Level` where a captured function has its capture, so
every op comes here. Tensors inside hold a `Lane`: the tensor outside with all of the batch. An op on
them is the batched call of that op (`ops/batching.py`) on the tensors outside, with this level left,
so that the next one, a capture or eager mode sees ordinary calls of ops. Levels nest like that.

There are two tapes. Inside, ops are recorded on the tensors that hold Lanes, as f sees them: what a
gradient taken inside f goes along. Outside, the batched calls are recorded on the tensors with the
batch: what a gradient of vmap(f) goes along. They don't know of each other; tensors from outside count
as constants inside.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any, NoReturn

from ..autograd.tape import record
from ..autograd.views import tie
from ..errors import KilnError, describe
from ..ops.batching import Lane, run
from ..ops.dispatch import apply
from ..ops.registry import Op
from ..tensor import CAPTURING, Tensor, differentiated, wrap

ERROR, SAME, DIFFERENT = "error", "same", "different"


class Level:
    """A vmap under way on one thread, over a batch of `size`."""

    def __init__(self, size: Any, randomness: str):
        self.size, self.randomness = size, randomness
        self.running = False
        self.outer: Any = None  # what is outside: a level, a capture, or None for eager mode
        self.capture: Any = None
        self.depth = 0
        self.inside: set[str] = set()  # ops whose bodies are being batched

    # ---- entering and leaving

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make this the level of the thread until the mapped function, or a part of it, has returned."""
        me = get_ident()
        self.outer = outer = CAPTURING.get(me)
        self.capture = None if outer is None else outer.capture
        self.depth = getattr(outer, "depth", 0) + 1
        self.running = True
        CAPTURING[me] = self
        try:
            yield
        finally:
            self.running = False
            _restore(me, outer)

    @contextmanager
    def below(self) -> Iterator[None]:
        """Run the block outside of this level."""
        me = get_ident()
        inner = CAPTURING.get(me)
        _restore(me, self.outer)
        try:
            yield
        finally:
            _restore(me, inner)

    # ---- tensors

    def owns(self, x: Any) -> bool:
        """Whether a value is a tensor of this level."""
        return isinstance(x, Tensor) and x._a.__class__ is Lane and x._a.level is self

    def payload(self, t: Tensor) -> Lane:
        """What a tensor holds at this level; all of the batch share one from outside."""
        return t._a if self.owns(t) else Lane(self, t, False)

    def detached(self, t: Tensor) -> Lane:
        """`payload` cut off from the history outside as well."""
        lane = self.payload(t)
        with self.below():
            return Lane(self, lane.tensor.detach(), lane.batched)

    def lift(self, op: Op, args: tuple) -> tuple | None:
        """The arguments with all tensors at this level; None where none of them is of this level."""
        owns = self.owns
        if not any(
            any(map(owns, x)) if isinstance(x, list | tuple) else owns(x)
            for x in (args[i] for i in op.tensor_slots)
        ):
            return None

        def up(x: Any) -> Any:
            if isinstance(x, Tensor):
                return x if owns(x) else wrap(Lane(self, x, False))
            return [up(y) for y in x] if isinstance(x, list | tuple) else x

        out = list(args)
        for i in op.tensor_slots:
            out[i] = up(args[i])
        return tuple(out)

    # ---- ops

    def call(self, op: Op, args: tuple) -> Any:
        """Call an op of the mapped function."""
        if op.family == "random" and self.randomness == DIFFERENT:
            return self._draw(op, args)
        lifted = self.lift(op, args)
        if lifted is None:
            with self.below():
                return apply(op, args)
        r = self.compute(op, lifted)
        outs = tuple(map(wrap, r)) if isinstance(r, tuple) else (wrap(r),)
        if op.view and outs[0]._a.tensor._base is not None:  # else the op had to copy
            tie(op, lifted, outs[0])
        record(op, lifted, outs)
        if not isinstance(r, tuple):
            return outs[0]
        return op.result(*outs) if op.result is not None else outs

    def compute(self, op: Op, args: tuple) -> Any:
        """The result of an op on tensors of this level, as a Lane (a tuple of them for several outputs)."""
        lanes = tuple(_lane(x) for x in args)
        batched = any(
            any(y.batched for y in x if y.__class__ is Lane) if isinstance(x, list) else x.batched
            for x in lanes if x.__class__ is Lane or isinstance(x, list)
        )  # fmt: skip
        me = get_ident()
        _restore(me, self.outer)
        try:
            r = run(self, op, args, lanes) if batched else apply(op, tuple(map(_shared, lanes)))
            if isinstance(r, tuple | list):
                return tuple(Lane(self, _cut(op, i, x), batched) for i, x in enumerate(r))
            return Lane(self, _cut(op, 0, r), batched)
        finally:
            CAPTURING[me] = self

    def expand(self, op: Op, args: tuple) -> Any:
        """The results of an op's body, its decomposition into ops, with the batch in front.

        What is recorded inside is the op's call, not those of its body; outside, as its rules would have it.
        """
        targets = {t for rule in op.rules for t in rule.targets}

        def plain(x: Any, i: int) -> Any:
            if isinstance(x, Tensor):
                cut = i not in targets and differentiated(x._a.tensor)
                return wrap(self.detached(x) if cut else x._a)
            return [plain(y, i) for y in x] if isinstance(x, list) else x

        assert op.body is not None
        me = get_ident()
        CAPTURING[me] = self
        self.inside.add(op.name)
        try:
            r = op.body(*(plain(x, i) for i, x in enumerate(args)))
            several = isinstance(r, tuple | list)
            lanes = [self.payload(x) for x in (r if several else [r])]
        finally:
            self.inside.discard(op.name)
            _restore(me, self.outer)
        return tuple(x.whole for x in lanes) if several else lanes[0].whole

    def write(self, x: Tensor, value: Any) -> None:
        """Store a value in a tensor's memory."""
        into = self.payload(x)
        source = value if value.__class__ is Lane else self.payload(value)
        if source.batched and not into.batched:
            raise KilnError(
                "vmap", "an in-place operation is not possible: the values differ in the batch, but all "
                "of the batch share the tensor that is written", describe(x),
                "use the out-of-place form, or make the tensor from a mapped one: x.new_zeros(…) + 0 * x",
            )  # fmt: skip
        with self.below():
            into.tensor.copy_(source.tensor)

    def beside(self, x: Tensor, t: Tensor) -> Tensor:
        """A new tensor made for x, with a batch of its own where x has one."""
        if not self.owns(x) or not x._a.batched:
            return t
        with self.below():
            return wrap(Lane(self, Lane(self, t, False).whole.clone(), True))

    # ---- random numbers

    def drawn(self, words: Any) -> Any:
        """How many words of a random stream a draw takes that takes so many without vmap."""
        if self.randomness == ERROR:
            raise KilnError(
                "vmap", "called random operation while in randomness error mode", None,
                "pass randomness='same' or 'different' to vmap, or draw the numbers outside of it",
            )  # fmt: skip
        if self.randomness == DIFFERENT:
            words = words * self.size
        return words if self.outer is None else self.outer.drawn(words)

    def _draw(self, op: Op, args: tuple) -> Any:
        """Numbers that differ in the batch: of a size, or of parameters that broadcast."""
        state, *rest = args
        if op.list_slots:  # parameters as they are drawn with, a law, the size
            whole = [x._a.whole if self.owns(x) else x.expand(self.size, *x.shape) for x in rest[0]]
            with self.below():
                values, after = apply(op, (state, whole, rest[1], (self.size, *rest[2]), *rest[3:]))
            return wrap(Lane(self, values, True)), wrap(Lane(self, after, False))
        if len(op.tensor_slots) == 1:
            with self.below():
                return wrap(Lane(self, apply(op, (state, (self.size, *rest[0]), *rest[1:])), True))
        given = [x if self.owns(x) else wrap(Lane(self, x, False)) for x in rest]
        rank = max(x._a.ndim for x in given)
        with self.below():
            whole = (Lane(self, x._a.whole, True).aligned(rank) for x in given)
            out = wrap(Lane(self, apply(op, (state, *whole)), True))
        record(op, (state, *given), (out,))
        return out

    # ---- values

    def branch(self, t: Tensor) -> bool:
        """The truth value of a tensor; an error where it differs in the batch."""
        lane = self.payload(t)
        if lane.batched:
            raise KilnError(
                "vmap", "It looks like you're attempting to use a Tensor in some data-dependent control flow, "
                "where each of the batch may go another way", describe(t),
                "choose by value with kiln.where, or leave the branch out of the mapped function",
            )  # fmt: skip
        with self.below():
            return bool(lane.tensor)

    def refuse(self, why: str, lane: Any) -> NoReturn:
        """Raise where Python asks for a value that differs in the batch."""
        what = "x" if lane is None else f"{describe(lane.tensor)} with the batch in front"
        if not self.running:
            raise KilnError(
                "vmap", "this tensor was made inside a function under vmap and has no value outside it",
                what, "return it from the function instead of storing it",
            )  # fmt: skip
        raise KilnError(
            "vmap", f"It looks like you're calling .{why}() on a Tensor: its value differs in the batch",
            what, "return the tensor and read it outside of vmap",
        )  # fmt: skip

    def check_host_read(self, t: Tensor, why: str) -> None:
        """A value that all of the batch share is read by Python."""
        if self.outer is not None:
            self.outer.check_host_read(t, why)

    # ---- gradient fields

    def read_grad(self, t: Tensor) -> Tensor | None:
        """`t.grad` as whoever is outside knows it."""
        return t._grad if self.outer is None or self.owns(t) else self.outer.read_grad(t)

    def note_grad(self, t: Tensor) -> None:
        """`t.grad` is about to be set."""
        if self.outer is not None and not self.owns(t):
            self.outer.note_grad(t)


def _cut(op: Op, i: int, x: Tensor) -> Tensor:
    """A result without history where the op's has none, whatever it was computed by."""
    return x.detach() if x._rg and (not op.rules or i in op.nondiff_outputs) else x


def _restore(me: int, context: Any) -> None:
    if context is None:
        CAPTURING.pop(me, None)
    else:
        CAPTURING[me] = context


def _lane(x: Any) -> Any:
    if isinstance(x, Tensor):
        return x._a
    return [_lane(y) for y in x] if isinstance(x, list) else x


def _shared(x: Any) -> Any:
    if x.__class__ is Lane:
        return x.tensor
    return [_shared(y) for y in x] if isinstance(x, list) else x


def is_batchedtensor(tensor: Tensor) -> bool:
    """Whether a tensor stands for each of a batch under vmap: `torch._C._functorch.is_batchedtensor`."""
    return isinstance(tensor._a, Lane) and tensor._a.batched
