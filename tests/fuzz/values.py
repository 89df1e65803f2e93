"""What the steps of a program draw on: its values so far, weights made for it, choices of its seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np

import kiln
from kiln import dtypes as dt

COMPUTED = {"float64": 2.5e-16, "float32": 1.2e-7, "float16": 1.2e-7, "bfloat16": 1.2e-7}
LAST_PLACE = {"float64": 2.5e-16, "float32": 1.2e-7, "float16": 1e-3, "bfloat16": 8e-3}
LIMIT = {False: 4_000, True: 200_000}  # elements of a value, to keep eager mode quick


class Values:
    """The values of one run of a program.

    `weights` outlives the run: what one run asks for, the next gets again, whatever mode it runs in.
    `large` programs have values that are worth several tasks, vectors and blocks.
    """

    def __init__(
        self, seed: int, inputs: tuple[Any, ...], weights: dict[Any, Any], large: bool = False
    ):
        self.q = random.Random(seed)
        self.seed, self.weights = seed, weights
        self.step, self.made = 0, 0
        self.large, self.limit = large, LIMIT[large]
        self.all = list(inputs)

    def pick(self) -> Any:
        """One of the values, mostly the last."""
        return self.all[-1] if self.q.random() < 0.6 else self.q.choice(self.all)

    def other(self, x: Any) -> Any:
        """Something that broadcasts with `x`: a value, a weight of its shape or of a part of it, a number."""
        q = self.q
        kind = q.choice(["value", "value", "weight", "row", "column", "number"])
        if kind == "value":
            y = q.choice(self.all)
            return y if fits(x.shape, y.shape, self.limit) else self.weight(x.shape)
        if kind == "number":
            return q.choice([0, 1, 2, -1, 0.5, -1.5, 3.0])
        shape = tuple(x.shape)
        if kind == "row":
            shape = shape[q.randint(0, len(shape)) :]
        if kind == "column" and shape:
            d = q.randrange(len(shape))
            shape = (*shape[:d], 1, *shape[d + 1 :])
        return self.weight(shape)

    def begin(self, step: int) -> None:
        """What the next step makes is its own, however much was made for one that was refused."""
        self.step, self.made, self.note = step, 0, ""
        self.by_value = (
            False  # whether sizes of its result depend on values, which a capture refuses
        )

    def _kept(self, make: Callable[[np.random.Generator], Any], *what: Any) -> Any:
        self.made += 1
        key = (self.step, self.made, *what)
        if key not in self.weights:
            self.weights[key] = make(np.random.default_rng((self.seed, self.step, self.made)))
        return self.weights[key]

    def weight(self, shape: Any, dtype: Any = None) -> Any:
        """A tensor of normal numbers that the program reaches as a closure."""
        shape, dtype = tuple(shape), dtype or kiln.float32
        transposed = len(shape) > 1 and self.q.random() < 0.2

        def make(r: np.random.Generator) -> Any:
            s = (*shape[:-2], shape[-1], shape[-2]) if transposed else shape
            t = kiln.tensor(r.normal(size=s).astype(np.float32)).to(dtype)
            return t.transpose(-1, -2) if transposed else t

        return self._kept(make, "weight", shape, str(dtype).rsplit(".", 1)[-1], transposed)

    def indices(self, shape: Any, n: int, negative: bool = False) -> Any:
        """Indices into `n` places, as int64 or int32."""
        kind = self.q.choice([np.int64, np.int64, np.int32])
        if n == 0:
            raise ValueError("no place to point at")
        low = -n if negative and self.q.random() < 0.3 else 0
        shape = tuple(shape)
        return self._kept(
            lambda r: kiln.tensor(np.asarray(r.integers(low, n, shape), kind)),
            "indices",
            shape,
            low,
            n,
            kind,
        )

    def mask(self, shape: Any) -> Any:
        """A tensor of bools."""
        shape = tuple(shape)
        return self._kept(lambda r: kiln.tensor(np.asarray(r.random(shape) < 0.6)), "mask", shape)

    def module(self, kind: str, *args: Any, **options: Any) -> Any:
        """A module of `nn` that the program reaches as a closure."""

        def seeded(r: np.random.Generator) -> Any:
            kiln.manual_seed(int(r.integers(1 << 30)))
            made = getattr(kiln.nn, kind)(*args, **options)
            made.made = (args, options)
            return made

        return self._kept(seeded, "module", kind, args, *options.items())

    def dim(self, x: Any) -> int:
        """A dim of `x`, from the front or the back."""
        if x.ndim == 0:
            return self.q.choice([0, -1])
        return self.q.randrange(x.ndim) - self.q.choice([0, x.ndim])

    def dims(self, x: Any) -> list[int]:
        """Some dims of `x`."""
        return self.q.sample(range(x.ndim), self.q.randint(1, x.ndim)) if x.ndim else []

    def filled(self, x: Any, shape: Any) -> Any:
        """`x`'s elements, repeated or cut to fill a shape, as a floating tensor."""
        n = int(np.prod(shape, dtype=np.int64))
        flat = floating(x).reshape(-1)
        if flat.numel() == 0:
            return self.weight(shape)
        if (
            flat.numel() < n
        ):  # not the same numbers again: the variance of equals is nothing but rounding
            flat = flat.repeat(-(-n // flat.numel()))[:n] * self.weight((n,), flat.dtype)
        return flat[:n].reshape(tuple(shape))

    def tame(self, y: Any) -> Any:
        """`y` kept from growing, in one of several ways."""
        if y.is_complex():
            return y / (1 + y.abs())
        if not y.is_floating_point():
            return y
        kind = self.q.choice(["clamp", "clamp", "clamp", "scale", "tanh", "softsign"])
        if kind == "clamp":
            return y.clamp(-30, 30)
        if kind == "scale":
            return (y * 0.125).clamp(-100, 100)
        return y.tanh() if kind == "tanh" else y / (1 + y.abs())


def moved(t: Any, r: np.random.Generator) -> Any:
    """A tensor whose fractions are a last place or so away; whole numbers stay, but in half floats, which round to
    them what a compiled program has more of: trunc(tanh(3)) is 1 in bfloat16.

    What is next to nothing beside 1 or the largest element is moved across zero as well: sin(pi * n) is
    nothing but rounding, and so is its sign.
    """
    if t.is_complex():
        return kiln.view_as_complex(moved(kiln.view_as_real(t.resolve_conj()), r))
    if not t.is_floating_point():
        return t
    a = t.detach().double().numpy()
    sign = r.choice([-1, 1], a.shape)
    fraction = (a != 0) if t.dtype.itemsize == 2 else a != np.round(a)
    scale = np.where(fraction, 1 + LAST_PLACE[t.dtype.name] * sign, 1.0)
    largest = np.abs(a[np.isfinite(a)]).max(initial=1.0)
    nothing = fraction & (np.abs(a) < 4 * COMPUTED[t.dtype.name] * min(largest, 1e3))
    return t * kiln.tensor(np.where(nothing, sign, scale)).to(t.dtype)


def fits(a: Any, b: Any, limit: int) -> bool:
    """Whether two shapes broadcast to something small."""
    try:
        return int(np.prod(np.broadcast_shapes(tuple(a), tuple(b)), dtype=np.int64)) <= limit
    except ValueError:
        return False


def floating(x: Any) -> Any:
    """`x`, the real part of a complex one, or its float32 where it has no floating dtype."""
    return x.real if x.is_complex() else x if x.is_floating_point() else x.float()


def unsigned(x: Any) -> Any:
    """`x` with no negative zero: which zero comes of products, sums and equal ones is not promised."""
    return x + 0 if x.is_floating_point() or x.is_complex() else x


def signed(x: Any) -> Any:
    """`x` without zeros and NaN, whose signs are not promised: of clamp, maximum (1011752), sums (10015959)."""
    return kiln.where((x == 0) | (x != x), 0.0, x) if x.is_floating_point() else x


def integral(x: Any) -> Any:
    """`x` as integers; floats are rounded within a byte's range."""
    if x.dtype is dt.bool_:
        return x.int()
    x = x.real if x.is_complex() else x
    return x.clamp(-100, 100).round().int() if x.is_floating_point() else x
