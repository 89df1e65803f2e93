"""The steps of small recurrent layers on plain arrays, one after the other, forward and backward.

What doesn't depend on the step before is computed for all steps at once. Arrays are (time, batch, …).
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray


class Steps:
    """What a layer's steps have computed: `ys`, the `last` state, and how gradients go back through them."""

    ys: Array
    last: tuple[Array, ...]

    def __init__(self, x: Array, w: Array, b: Array | None, state: tuple[Array, ...]):
        self.x, self.w, self.b, self.state = x, w, b, state
        self.ys = np.empty((*x.shape[:-1], w.shape[1]), x.dtype)
        self.run(w.T, *state)

    def run(self, turned: Array, *state: Array) -> None:
        """All steps, with the recurrent weight transposed."""
        raise NotImplementedError

    def back(self, gy: Array | None, *gs: Array | None) -> tuple[Array, Array, tuple[Array, ...]]:
        """The gradients of `x`, of what the state gave the gates (for all steps), and of the first state."""
        raise NotImplementedError

    def befores(self) -> Array:
        """The state h before each step."""
        return np.concatenate((self.state[0][None], self.ys[:-1]))


def _sigmoid(z: Array, a: Array) -> None:
    """1 / (1 + exp(-z)) in `a`; an exp that overflows leaves 0."""
    np.negative(z, a)
    np.exp(a, a)
    np.add(a, 1, a)
    np.reciprocal(a, a)


def _arrived(gy: Array | None, back: Array | None, like: Array) -> list[Array]:
    """What arrives at each step's output from outside; `back` comes from behind the last."""
    rows = np.zeros_like(like) if gy is None else gy
    if back is None:
        return list(rows)
    return [*rows[:-1], rows[-1] + back]


class LSTM(Steps):
    """Gates in the order i, f, g, o; the state is (h, c)."""

    def run(self, turned: Array, h: Array, c: Array) -> None:  # type: ignore[override]
        x, n = self.x, self.ys.shape[-1]
        self.acts = acts = np.empty_like(x)
        self.cells, self.tanhs = np.empty((len(x) + 1, *c.shape), x.dtype), np.empty_like(self.ys)
        self.cells[0] = c
        z, part = np.empty_like(x[0]), np.empty_like(c)
        middle = z[..., 2 * n : 3 * n]
        gates = [acts[..., k * n : (k + 1) * n] for k in range(4)]
        for row, a, i, f, g, o, new, t, y in zip(x, acts, *gates, self.cells[1:], self.tanhs, self.ys, strict=True):  # fmt: skip
            np.dot(h, turned, z)
            np.add(z, row, z)
            _sigmoid(z, a)
            np.tanh(middle, g)
            np.multiply(f, c, new)
            np.multiply(i, g, part)
            np.add(new, part, new)
            np.tanh(new, t)
            np.multiply(o, t, y)
            h, c = y, new
        self.last = h, c

    def back(self, gy: Array | None, *gs: Array | None) -> tuple[Array, Array, tuple[Array, ...]]:
        acts, t, n = self.acts, self.tanhs, self.ys.shape[-1]
        i, f, g, o = (acts[..., k * n : (k + 1) * n] for k in range(4))
        slopes = (1 - acts) * acts
        di, df, dg, do = (slopes[..., k * n : (k + 1) * n] for k in range(4))
        np.multiply(1 - g * g, i, dg)
        di *= g
        df *= self.cells[:-1]
        do *= t
        of_cell = (1 - t * t) * o
        parts = slopes.reshape(*slopes.shape[:-1], 4, n)
        back, dc = None, np.zeros_like(self.state[1]) if gs[1] is None else gs[1]
        arrived = _arrived(gy, gs[0], self.ys)
        for k in range(len(acts) - 1, -1, -1):
            dh = arrived[k] if back is None else arrived[k] + back
            dc = of_cell[k] * dh + dc
            parts[k, :, :3] *= dc[:, None]
            parts[k, :, 3] *= dh
            back = np.dot(slopes[k], self.w)
            dc = dc * f[k]
        return slopes, slopes, (back, dc)  # type: ignore[return-value]


class GRU(Steps):
    """Gates in the order r, z, n; the reset gate comes after the product."""

    def run(self, turned: Array, h: Array) -> None:  # type: ignore[override]
        x, n = self.x, self.ys.shape[-1]
        self.given, self.news = np.empty_like(x), np.empty_like(self.ys)
        self.acts = np.empty((*x.shape[:-1], 2 * n), x.dtype)
        rows = x[..., : 2 * n], x[..., 2 * n :], self.given[..., : 2 * n], self.given[..., 2 * n :]
        sides = self.acts[..., :n], self.acts[..., n:]
        for xa, xn, ya, yn, given, a, r, z, new, y in zip(*rows, self.given, self.acts, *sides, self.news, self.ys, strict=True):  # fmt: skip
            np.dot(h, turned, given)
            if self.b is not None:
                np.add(given, self.b, given)
            np.add(xa, ya, a)
            _sigmoid(a, a)
            np.multiply(r, yn, new)
            np.add(new, xn, new)
            np.tanh(new, new)
            np.subtract(h, new, y)
            np.multiply(y, z, y)
            np.add(y, new, y)
            h = y
        self.last = (h,)

    def back(self, gy: Array | None, *gs: Array | None) -> tuple[Array, Array, tuple[Array, ...]]:
        acts, new, n = self.acts, self.news, self.ys.shape[-1]
        r, z = acts[..., :n], acts[..., n:]
        of_new = (1 - new * new) * (1 - z)
        slopes = np.empty_like(self.x)
        np.multiply(1 - acts, acts, slopes[..., : 2 * n])
        slopes[..., :n] *= of_new * self.given[..., 2 * n :]
        slopes[..., n : 2 * n] *= self.befores() - new
        np.multiply(of_new, r, slopes[..., 2 * n :])
        parts = slopes.reshape(*slopes.shape[:-1], 3, n)
        back, arrived = None, _arrived(gy, gs[0], self.ys)
        for k in range(len(acts) - 1, -1, -1):
            dh = arrived[k] if back is None else arrived[k] + back
            parts[k] *= dh[:, None]
            of_new[k] *= dh
            back = np.dot(slopes[k], self.w)
            back += dh * z[k]
        return np.concatenate((slopes[..., : 2 * n], of_new), -1), slopes, (back,)  # type: ignore[return-value]


class RNN(Steps):
    """One gate, squashed by tanh."""

    def squash(self, y: Array) -> None:
        np.tanh(y, y)

    def slope(self) -> Array:
        return 1 - self.ys * self.ys

    def run(self, turned: Array, h: Array) -> None:  # type: ignore[override]
        for row, y in zip(self.x, self.ys, strict=True):
            np.dot(h, turned, y)
            if self.b is not None:
                np.add(y, self.b, y)
            np.add(y, row, y)
            self.squash(y)
            h = y
        self.last = (h,)

    def back(self, gy: Array | None, *gs: Array | None) -> tuple[Array, Array, tuple[Array, ...]]:
        slopes = self.slope()
        back, arrived = None, _arrived(gy, gs[0], self.ys)
        for k in range(len(slopes) - 1, -1, -1):
            slopes[k] *= arrived[k] if back is None else arrived[k] + back
            back = np.dot(slopes[k], self.w)
        return slopes, slopes, (back,)  # type: ignore[return-value]


class ReluRNN(RNN):
    """One gate, cut off at zero."""

    def squash(self, y: Array) -> None:
        np.maximum(y, 0, out=y)

    def slope(self) -> Array:
        return (self.ys > 0).astype(self.ys.dtype)


KINDS: dict[str, Any] = {"LSTM": LSTM, "GRU": GRU, "RNN_TANH": RNN, "RNN_RELU": ReluRNN}
