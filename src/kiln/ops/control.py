"""Loops and branches of captured programs: ops whose arguments include Graphs.

Programs get them from `kiln.scan`, `kiln.cond` and `kiln.while_loop` (`compile/control.py`), which
also differentiate them. A body is closed: everything that it reads is one of its inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnError, describe
from ..shape import Size
from ..tensor import Tensor
from .joining import cat, stack
from .registry import LEADING, Sample, op
from .samples import draw, rng


def _kind(x: Any) -> tuple[tuple, dt.dtype]:
    return tuple(x.shape), x.dtype


def _text(kinds: Sequence[tuple]) -> str:
    return "(" + ", ".join(f"{d.abbr}{list(s)}" for s, d in kinds) + ")"


def match(name: str, what: str, want: Sequence[tuple], have: Sequence[tuple], help: str) -> None:
    """Raise where (shape, dtype) pairs are not those that are due."""
    if [(tuple(s), d) for s, d in want] != [(tuple(s), d) for s, d in have]:
        raise KilnError(name, what, f"{_text(have)} where {_text(want)} is due", help)


def _control(name: str, infer: Callable) -> Callable:
    return op(name=name, private=True, family="control", exact=True, check=False, infer=infer)


def _scan_infer(
    body: Any, init: Any, xs: Any, consts: Any, length: int, reverse: bool
) -> list[tuple]:
    for x in xs:
        if not len(x.shape) or x.shape[0] != length:
            raise KilnError(
                "scan",
                f"a sequence has no leading dimension of {length}",
                describe(x),
                "xs have one length",
            )
    carries = [_kind(c) for c in init]
    given = [*carries, *((tuple(x.shape[1:]), x.dtype) for x in xs), *map(_kind, consts)]
    match("scan", "the body takes other inputs", list(map(_kind, body.inputs)), given, "")
    outs = list(map(_kind, body.outputs))
    match(
        "scan", "a carry changes its shape or dtype", carries, outs[: len(carries)],
        "the function returns carries like those that it takes",
    )  # fmt: skip
    return [(Size(s), d) for s, d in carries] + [
        (Size((length, *s)), d) for s, d in outs[len(carries) :]
    ]


@_control("scan_op", _scan_infer)
def scan_op(
    body: Any, init: Sequence[Tensor], xs: Sequence[Tensor], consts: Sequence[Tensor], length: int, reverse: bool,
) -> Any:  # fmt: skip
    """`body` maps (carries, one slice of each of xs, consts) to (carries, ys): the last carries and the stacked ys."""
    run, n = body.evaluator(), len(init)
    carries = list(init)
    ys = [np.empty((length, *o.shape), o.dtype.np) for o in body.outputs[n:]]
    for t in reversed(range(length)) if reverse else range(length):
        outs = run([*carries, *(x[t] for x in xs), *consts])
        carries = outs[:n]
        for y, o in zip(ys, outs[n:], strict=True):
            y[t] = o
    return (*carries, *ys)


def _cond_infer(then: Any, other: Any, pred: Any, operands: Any) -> list[tuple]:
    if pred.dtype is not dt.bool_ or len(pred.shape):
        raise KilnError("cond", "the predicate is one truth value", describe(pred), "e.g. x.any()")
    for body in (then, other):
        match("cond", "a branch takes other inputs", list(map(_kind, body.inputs)), list(map(_kind, operands)), "")  # fmt: skip
    outs = list(map(_kind, then.outputs))
    match("cond", "the branches return different shapes or dtypes", outs, list(map(_kind, other.outputs)),
          "both branches return tensors of the same kinds")  # fmt: skip
    return [(Size(s), d) for s, d in outs]


@_control("cond_op", _cond_infer)
def cond_op(then: Any, other: Any, pred: Tensor, operands: Sequence[Tensor]) -> Any:
    """What `then` gives for the operands where `pred` is true, else what `other` gives."""
    return tuple((then if pred else other).evaluator()(list(operands)))


def _while_infer(test: Any, body: Any, init: Any, consts: Any) -> list[tuple]:
    given = [*map(_kind, init), *map(_kind, consts)]
    match(
        "while_loop", "the condition takes other inputs", list(map(_kind, test.inputs)), given, ""
    )
    match("while_loop", "the body takes other inputs", list(map(_kind, body.inputs)), given, "")
    match("while_loop", "the condition is one truth value", [((), dt.bool_)], list(map(_kind, test.outputs)),
          "e.g. (x > 0).any()")  # fmt: skip
    carries = [_kind(c) for c in init]
    match("while_loop", "a carry changes its shape or dtype", carries, list(map(_kind, body.outputs)),
          "the body returns carries like those that it takes")  # fmt: skip
    return [(Size(s), d) for s, d in carries]


@_control("while_op", _while_infer)
def while_op(test: Any, body: Any, init: Sequence[Tensor], consts: Sequence[Tensor]) -> Any:
    """The carries after `body` has been applied to (carries, consts) for as long as `test` of them holds."""
    going, run = test.evaluator(), body.evaluator()
    carries = list(init)
    while going([*carries, *consts])[0]:
        carries = run([*carries, *consts])
    return tuple(carries)


def _parts(gs: Any) -> list[Tensor]:
    """The gradients of all outputs; an op of one output gets its gradient by itself."""
    given = [gs] if isinstance(gs, Tensor) else gs
    some = next(g for g in given if g is not None)
    return [some.new_zeros(some.shape) if g is None else g for g in given]


def _slices_grad(gs: Any) -> Tensor:
    return stack(_parts(gs))


@op(
    name="slices", private=True, batch=lambda n, input: list(input.tensor.unbind(1)), family="movement", exact=True, check=False,
    infer=lambda input: [(Size(input.shape[1:]), input.dtype)] * input.shape[0],
    grad={"input": _slices_grad},
    samples=lambda: iter([Sample((draw(rng(), (3, 2)),)), Sample((draw(rng(), (1,)),))]),
)  # fmt: skip
def slices(input: Tensor) -> Any:
    """Copies of the slices along dimension 0; their gradients are stacked once."""
    return tuple(np.array(x) for x in input)


def _chunks_infer(input: Any, n: int) -> list[tuple]:
    return [(Size((*input.shape[:-1], input.shape[-1] // n)), input.dtype)] * n


def _chunks_grad(gs: Any) -> Tensor:
    return cat(_parts(gs), -1)


def _chunks_body(input: Tensor, n: int) -> tuple[Tensor, ...]:
    size = input.shape[-1] // n
    return tuple(input[..., k * size : (k + 1) * size] for k in range(n))


@op(
    name="chunks", private=True, batch=LEADING, family="movement", exact=True, check=False,
    infer=_chunks_infer, body=_chunks_body, grad={"input": _chunks_grad},
    samples=lambda: iter([Sample((draw(rng(), (3, 4)), 2)), Sample((draw(rng(), (6,)), 3))]),
)  # fmt: skip
def chunks(input: Tensor, n: int) -> Any:
    """`n` equal parts of the last dimension, not to be written to; their gradients are joined once."""
    return tuple(np.split(input, n, -1))
