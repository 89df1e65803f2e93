"""Gates of recurrent cells as one op each: what eager mode computes at a small step in place of a dozen ops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..shape import Size
from ..tensor import Tensor
from .registry import FUNCTIONS, Sample, op
from .rules import by_body
from .samples import draw, rng
from .slicing import split

# Both ops give besides the next state what their gradients read, which nobody else sees.


def _sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)) in memory of its own; an exp that overflows leaves 0."""
    a = np.negative(x)
    np.exp(a, a)
    a += 1
    return np.reciprocal(a, a)


# ---------------------------------------------------------------- LSTM


def lstm_body(gates: Tensor, c: Tensor) -> tuple[Tensor, ...]:
    """`lstm_gates` in ops."""
    i, f, g, o = split(gates, c.shape[-1], -1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    c = f * c + i * g
    t = c.tanh()
    return o * t, c, FUNCTIONS["cat"]([i, f, g, o], -1), t


def lstm_slopes(
    gh: Any, gc: Any, acts: np.ndarray, t: np.ndarray, c: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The gradients of the gates and of the old cell, from those of the new state (of which one may be None)."""
    n = c.shape[-1]
    i, f, g, o = acts[..., :n], acts[..., n : 2 * n], acts[..., 2 * n : 3 * n], acts[..., 3 * n :]
    if gh is None:
        dc = gc
    else:
        dc = t * t
        np.subtract(1, dc, dc)
        dc *= o
        dc *= gh
        if gc is not None:
            dc += gc
    d = 1 - acts
    d *= acts
    di, df, dg, do = d[..., :n], d[..., n : 2 * n], d[..., 2 * n : 3 * n], d[..., 3 * n :]
    np.multiply(g, g, dg)
    np.subtract(1, dg, dg)
    dg *= i
    di *= g
    df *= c
    for part in (di, df, dg):
        part *= dc
    if gh is None:
        do.fill(0)
    else:
        do *= t
        do *= gh
    return d, dc * f


def _lstm_quick(gs: Sequence[Any], outs: Sequence[np.ndarray], c: np.ndarray) -> tuple:
    return lstm_slopes(gs[0], gs[1], outs[2], outs[3], c)


@op(
    private=True, check=False, nondiff_outputs=(2, 3), seen=2, body=lstm_body,
    infer=lambda gates, c: [(Size(c.shape), c.dtype)] * 2 + [(Size(gates.shape), c.dtype), (Size(c.shape), c.dtype)],
    grad=by_body(lstm_body, "gates", "c", several=True), quick={("gates", "c"): _lstm_quick},
    samples=lambda: iter([Sample((draw(rng(), (3, 8)), draw(rng(1), (3, 2)))), Sample((draw(rng(), (4,)), draw(rng(1), (1,))))]),
)  # fmt: skip
def lstm_gates(gates: Tensor, c: Tensor) -> Any:
    """The next (h, c) from all four gates (i, f, g, o) before they are squashed; and these after it, and tanh(c)."""
    n = c.shape[-1]
    acts = _sigmoid(gates)
    np.tanh(gates[..., 2 * n : 3 * n], acts[..., 2 * n : 3 * n])
    new = acts[..., n : 2 * n] * c
    new += acts[..., :n] * acts[..., 2 * n : 3 * n]
    t = np.tanh(new)
    return acts[..., 3 * n :] * t, new, acts, t


# ---------------------------------------------------------------- GRU


def gru_body(x: Tensor, y: Tensor, h: Tensor) -> tuple[Tensor, ...]:
    """`gru_gates` in ops."""
    n = h.shape[-1]
    (xr, xz, xn), (hr, hz, hn) = split(x, n, -1), split(y, n, -1)
    r, z = (xr + hr).sigmoid(), (xz + hz).sigmoid()
    new = (xn + r * hn).tanh()
    return new + z * (h - new), FUNCTIONS["cat"]([r, z], -1), new


def gru_slopes(
    g: np.ndarray, acts: np.ndarray, new: np.ndarray, y: np.ndarray, h: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The gradients of what the input and what the state gave the gates, and of the old state."""
    n = h.shape[-1]
    r, z = acts[..., :n], acts[..., n:]
    dn = new * new
    np.subtract(1, dn, dn)
    dn *= 1 - z
    dn *= g
    d = 1 - acts
    d *= acts
    dr, dz = d[..., :n], d[..., n:]
    dr *= dn
    dr *= y[..., 2 * n :]
    dz *= h - new
    dz *= g
    return np.concatenate((d, dn), -1), np.concatenate((d, dn * r), -1), g * z


def _gru_quick(gs: Sequence[Any], outs: Sequence[np.ndarray], y: np.ndarray, h: np.ndarray) -> tuple:  # fmt: skip
    return gru_slopes(gs[0], outs[1], outs[2], y, h)


@op(
    private=True, check=False, nondiff_outputs=(1, 2), seen=1, body=gru_body,
    infer=lambda x, y, h: [(Size(h.shape), h.dtype), (Size((*h.shape[:-1], 2 * h.shape[-1])), h.dtype), (Size(h.shape), h.dtype)],
    grad=by_body(gru_body, "x", "y", "h", several=True), quick={("x", "y", "h"): _gru_quick},
    samples=lambda: iter([
        Sample((draw(rng(), (3, 6)), draw(rng(1), (3, 6)), draw(rng(2), (3, 2)))),
        Sample((draw(rng(), (3,)), draw(rng(1), (3,)), draw(rng(2), (1,)))),
    ]),
)  # fmt: skip
def gru_gates(x: Tensor, y: Tensor, h: Tensor) -> Any:
    """The next state from what the input `x` and the state `y` give the gates (r, z, n); and these two, and n."""
    n = h.shape[-1]
    acts = _sigmoid(x[..., : 2 * n] + y[..., : 2 * n])
    new = acts[..., :n] * y[..., 2 * n :]
    new += x[..., 2 * n :]
    np.tanh(new, new)
    out = h - new
    out *= acts[..., n:]
    out += new
    return out, acts, new
