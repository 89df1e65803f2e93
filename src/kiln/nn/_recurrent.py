"""One recurrent layer in one direction over a batch of sequences.

The projection of the inputs is one product over all time steps; `kiln.scan` runs over the steps, so a
captured program has one native loop for each layer and direction, whatever the sequence's length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from threading import get_ident
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..autograd import Function, grad
from ..autograd.modes import enable_grad, mode
from ..compile.compiled import CompiledFunction
from ..compile.control import scan
from ..config import config
from ..meta import WATCHING
from ..ops.control import chunks
from ..ops.creation import empty
from ..ops.joining import cat, stack
from ..ops.precision import off
from ..ops.recurrent import gru_gates, lstm_gates
from ..ops.reduction import accurate_sum
from ..ops.registry import at_once
from ..tensor import ACTIVE, CAPTURING, Tensor, active_capture, wrap
from . import functional as F
from ._steps import KINDS

_F32, _F64 = dt.float32.np, dt.float64.np
State = tuple[Tensor, ...]
Weights = tuple[Tensor | None, ...]

# Note [Blocks of steps]
# Eager mode runs a layer as Programs of blocks of 64, 16, 4 and 1 steps, one after the other, each handing the
# state on: four Programs serve sequences of every length, so a new length compiles nothing. A block's
# gradient is the backward half of its Program; a gradient of that gradient is taken from the steps in Python.
BLOCKS = (64, 16, 4, 1)
LEAST = 1 << 12  # elements of all states from which on a Program is worth being compiled


def _lstm(gates: Tensor, c: Tensor) -> State:
    """The next (h, c) from all four gates before they are squashed."""
    i, f, g, o = chunks(gates, 4)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def _gru(x: Tensor, y: Tensor, h: Tensor) -> Tensor:
    """The next state from what the input `x` and the state `y` give the three gates."""
    (xr, xz, xn), (hr, hz, hn) = chunks(x, 3), chunks(y, 3)
    z = (xz + hz).sigmoid()
    n = (xn + (xr + hr).sigmoid() * hn).tanh()
    return n + z * (h - n)


_LSTM, _GRU = at_once(_lstm, "dear"), at_once(_gru, "dear")


def _small(x: Tensor) -> bool:
    """Whether the ops of a step's gates cost more than their numbers, in eager mode."""
    a = x._a
    return not CAPTURING and a.__class__ is np.ndarray and a.size < LEAST and config.eager == "cpu"


def advance(
    kind: str, x: Tensor, state: State, w_hh: Tensor, b_hh: Tensor | None, w_hr: Tensor | None
) -> State:
    """The state after one step; `x` is the projected input with its bias."""
    h = state[0]
    if kind == "LSTM":
        gates = x + F.linear(h, w_hh, b_hh)
        h, c = lstm_gates(gates, state[1])[:2] if _small(gates) else _LSTM(gates, state[1])
        return (h if w_hr is None else F.linear(h, w_hr)), c
    if kind == "GRU":
        y = F.linear(h, w_hh, b_hh)
        return (gru_gates(x, y, h)[0] if _small(x) else _GRU(x, y, h),)
    x = x + F.linear(h, w_hh, b_hh)
    return (x.tanh() if kind == "RNN_TANH" else x.relu(),)


def recur_all(
    kind: str, x: Tensor, states: State, weights: Sequence[Weights], both: bool, dropout: float, mask: Tensor | None
) -> tuple[Tensor, State]:  # fmt: skip
    """All layers over (time, batch, features); `weights` go by layers and, in a layer, by directions.

    LSTM and RNN run whole in the dtype of autocast, as in PyTorch.
    """
    to = ACTIVE.get(get_ident()) if ACTIVE else None
    if to is not None and kind != "GRU" and x.dtype is not dt.float64:
        weights = [tuple(w if w is None else w.to(to) for w in ws) for ws in weights]
        with off():
            return recur_all(
                kind, x.to(to), tuple(s.to(to) for s in states), weights, both, dropout, mask
            )
    last: list[State] = []
    while len(last) < len(weights):
        ys = []
        for reverse in (False, True)[: 1 + both]:
            k = len(last)
            state, y = recur(kind, x, tuple(s[k] for s in states), weights[k], reverse, mask)
            last.append(state)
            ys.append(y)
        x = ys[0] if len(ys) == 1 else cat(ys, -1)
        if dropout and len(last) < len(weights):
            x = F.dropout(x, dropout, True)
    return x, tuple(stack(list(column)) for column in zip(*last, strict=True))


def recur(
    kind: str, x: Tensor, state: State, weights: Weights, reverse: bool, mask: Tensor | None
) -> tuple[State, Tensor]:
    """One layer in one direction over (time, batch, features): the last state and all outputs.

    Where `mask` (time, batch, 1) is false a sequence has ended: its state stays as it was.
    """
    w_ih, w_hh, b_ih, b_hh, w_hr = weights
    assert w_ih is not None
    assert w_hh is not None
    if kind != "GRU" and b_ih is not None and b_hh is not None:
        b_ih, b_hh = b_ih + b_hh, None  # one addition, outside the loop
    projected = F.linear(x, w_ih, b_ih)
    given = (projected, mask, w_hh, b_hh, w_hr, *state)
    if x.is_meta and mode.grad and _blocks(given) and (watcher := WATCHING.get(get_ident())) is not None:  # fmt: skip
        return _watched(watcher, kind, reverse, given)
    if not _native(given):
        if not _brief(given):
            return _steps(kind, reverse, given)
        short = kind, reverse, projected, w_hh, b_hh, *state
        ys, *last = Brief.apply(*short) if mode.grad else _short(*short)[1]
        return tuple(last), ys
    parts, pieces = [], list(_pieces(projected.shape[0]))
    for start, stop in reversed(pieces) if reverse else pieces:
        part = (projected[start:stop], None if mask is None else mask[start:stop])
        # a Function's forward doesn't know whether there will be a backward
        run = Block.apply if mode.grad else _block
        out: Any = run(kind, reverse, *part, w_hh, b_hh, w_hr, *state)
        parts.append(out[0])
        state = out[1:]
    return state, cat(parts[::-1] if reverse else parts) if len(parts) > 1 else parts[0]


def _steps(kind: str, reverse: bool, given: tuple) -> tuple[State, Tensor]:
    """The loop over the steps of projected inputs."""
    projected, mask, w_hh, b_hh, w_hr, *state = given

    def step(now: State, inputs: Any) -> tuple[State, Tensor]:
        new = advance(kind, inputs[0], now, w_hh, b_hh, w_hr)
        if mask is not None:
            new = tuple(inputs[1].where(a, b) for a, b in zip(new, now, strict=True))
        return new, new[0]

    return scan(step, tuple(state), (projected, mask), reverse=reverse)


def _native(given: tuple) -> bool:
    """Whether the steps are run as Programs; never where a program is captured, a function transformed or data absent."""
    return not given[0].is_meta and active_capture() is None and _blocks(given)


def _blocks(given: tuple) -> bool:
    """Whether there are enough steps of one dtype for Programs of blocks of them."""
    x, state = given[0], given[5:]
    if config.eager != "cpu" or x.shape[0] < BLOCKS[-2]:
        return False
    same = all(t is None or t.dtype is x.dtype for t in (*given[2:5], *state))
    return same and x.is_floating_point() and x.shape[0] * state[-1].numel() >= LEAST


def _watched(watcher: Any, kind: str, reverse: bool, given: tuple) -> tuple[State, Tensor]:
    """The steps on tensors without data, for who wants to know what eager mode's Programs would take."""
    with watcher.unheld():
        state, ys = _steps(kind, reverse, given)
    x, _, w_hh = given[:3]
    for start, stop in _pieces(x.shape[0]):
        sizes = stop - start, *x.shape[1:]
        block = [
            t if t is None else empty(sizes if t is x else t.shape, dtype=t.dtype, device="cpu").requires_grad_(t.requires_grad)
            for t in (x, *given[1:])
        ]  # fmt: skip
        program = _program(kind, reverse, (sizes, tuple(w_hh.shape), x.dtype))
        plan, _ = program.find((*block,), {})
        outputs = plan.graph.outputs[1 + len(state) :]
        if ys.requires_grad:
            watcher.tape.append(watcher.held(sum(o.numel() * o.dtype.itemsize for o in outputs)))
        watcher.programs[program] = program.memory_stats()["held_bytes"]
    watcher.tape.append(x._a.memory)
    for t in (ys, *state):
        t._a.memory = watcher.held(t.numel() * t.element_size())
    return state, ys


def _brief(given: tuple) -> bool:
    """Whether short steps on plain arrays are all that is asked for."""
    x, mask, w_hh, b_hh, w_hr, *state = given
    if CAPTURING or mask is not None or w_hr is not None or config.eager != "cpu":
        return False
    d = x._a.dtype
    if (d is not _F32 and d is not _F64) or not x.numel():
        return False
    known = [t for t in (x, w_hh, b_hh, *state) if t is not None]
    return all(t._a.__class__ is np.ndarray and t._a.dtype is d for t in known)


def _pieces(length: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of the blocks of a sequence."""
    start = 0
    for size in BLOCKS:
        while length - start >= size:
            yield start, start + size
            start += size


@lru_cache(maxsize=256)
def _program(kind: str, reverse: bool, sizes: tuple) -> CompiledFunction:
    """The compiled loop over blocks of one size."""

    def block(*given: Any) -> tuple[Tensor, ...]:
        state, ys = _steps(kind, reverse, given)
        return ys, *state

    return CompiledFunction(block, "cpu", f"{kind} block")


def _short(kind: str, reverse: bool, *given: Tensor | None) -> tuple[Any, tuple[Tensor, ...]]:
    """Steps one after the other on plain arrays: all that they have computed, and the outputs and the last state."""
    x, w, b, *state = (None if t is None else t._a for t in given)
    steps = KINDS[kind](x[::-1] if reverse else x, w, b, tuple(state))  # type: ignore[index]
    ys = steps.ys[::-1] if reverse else steps.ys
    return steps, tuple(wrap(a.copy()) for a in (ys, *steps.last))  # whose own may be written to


class Brief(Function):
    """The steps of a small layer, one after the other on plain arrays: the outputs, and the state behind them."""

    @staticmethod
    def forward(ctx: Any, kind: str, reverse: bool, *given: Tensor | None) -> tuple[Tensor, ...]:
        steps, outs = _short(kind, reverse, *given)
        if any(ctx.needs_input_grad):
            ctx.kind, ctx.reverse, ctx.steps = kind, reverse, steps
            ctx.save_for_backward(*given)
        return outs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        given = ctx.saved_tensors
        if mode.grad:
            return _again(ctx, given, grads)
        gy, *gs = (None if g is None else g._a for g in grads)
        if gy is not None and ctx.reverse:
            gy = gy[::-1]
        dx, dy, state = ctx.steps.back(gy, *gs)
        rows, before = dy.reshape(-1, dy.shape[-1]), ctx.steps.befores()
        dw = rows.T.dot(before.reshape(-1, before.shape[-1]))
        db = None if given[2] is None else accurate_sum(rows, 0)
        found = (dx[::-1] if ctx.reverse else dx, dw, db, *state)
        return None, None, *(None if a is None else wrap(a) for a in found)


def _again(ctx: Any, given: Sequence[Any], grads: Sequence[Tensor | None]) -> tuple:
    """The gradients of small steps, which have gradients themselves: those of the ops."""
    # views, as the weights are also below the state that the layer before has handed on
    leaves = [t if t is None else t.view_as(t) for t in given]
    x, w_hh, b_hh, *state = leaves
    last, ys = _steps(ctx.kind, ctx.reverse, (x, None, w_hh, b_hh, None, *state))
    at = [i for i, wanted in enumerate(ctx.needs_input_grad[2:]) if wanted]
    wanted = [leaves[i] for i in at]
    found = grad(
        (ys, *last), wanted, grads, create_graph=True, retain_graph=True, allow_unused=True
    )
    out: list[Tensor | None] = [None] * len(leaves)
    for i, g in zip(at, found, strict=True):
        out[i] = g
    return (None, None, *out)


def _block(kind: str, reverse: bool, *given: Any) -> tuple[Tensor, ...]:
    """A block of steps by its Program."""
    x, w_hh = given[0], given[2]
    return _program(kind, reverse, (tuple(x.shape), tuple(w_hh.shape), x.dtype))(*given)


class Block(Function):
    """A block of steps: the outputs, and the state behind it."""

    @staticmethod
    def forward(ctx: Any, kind: str, reverse: bool, *given: Tensor | None) -> tuple[Tensor, ...]:
        wants = ctx.needs_input_grad[2:]
        if not any(wants):
            return _block(kind, reverse, *given)
        ctx.kind, ctx.reverse = kind, reverse
        ctx.save_for_backward(*given)
        ctx.leaves = [
            t if t is None else t.detach().requires_grad_(w)
            for t, w in zip(given, wants, strict=True)
        ]
        with enable_grad():
            ctx.outs = _block(kind, reverse, *ctx.leaves)
        return tuple(o.detach() for o in ctx.outs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        leaves, outs, again = ctx.leaves, ctx.outs, mode.grad
        if again:
            # views, as the weights are also below the state that the block before has handed on
            leaves = [t if t is None else t.view_as(t) for t in ctx.saved_tensors]
            state, ys = _steps(ctx.kind, ctx.reverse, tuple(leaves))
            outs = (ys, *state)
        at = [i for i, wanted in enumerate(ctx.needs_input_grad[2:]) if wanted]
        found = grad(
            outs, [leaves[i] for i in at], grads, create_graph=again, retain_graph=True, allow_unused=True
        )  # fmt: skip
        out: list[Tensor | None] = [None] * len(leaves)
        for i, g in zip(at, found, strict=True):
            out[i] = g
        return (None, None, *out)
