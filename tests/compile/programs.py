"""Random programs: chains of ops on small tensors, the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np

import kiln
import kiln.nn.functional as F

UNARY = [
    "abs",
    "tanh",
    "sigmoid",
    "relu",
    "sign",
    "floor",
    "square",
    "isnan",
    "sin",
    "erf",
    "round",
]
BINARY = ["add", "mul", "maximum", "minimum", "lt", "ge", "eq", "logical_and"]


def unary(q: random.Random, x: Any, other: Callable) -> Any:
    return getattr(kiln, q.choice(UNARY))(x)


def binary(q: random.Random, x: Any, other: Callable) -> Any:
    y = other()
    kind = q.choice(["named", "named", "named", "where", "div", "affine", "rsub"])
    if kind == "where":
        return kiln.where(y > 0, x, y)
    if kind == "div":
        return x / (y.float().abs() + 1)
    if kind == "affine":
        return x * 2 + y * x - 3
    return 1 - x.float() if kind == "rsub" else getattr(kiln, q.choice(BINARY))(x, y)


def reduction(q: random.Random, x: Any, other: Callable) -> Any:
    d, keep = (q.randrange(x.ndim) if x.ndim else 0) - q.choice([0, x.ndim]), q.random() < 0.5
    kind = q.choice(["sum", "all", "any", "amax", "amin", "argmax", "mean", "var", "softmax",
                     "logsumexp", "cumsum", "prod", "total"])  # fmt: skip
    if kind == "total":
        return x.sum()
    if kind in ("softmax", "cumsum"):
        return getattr(x.float(), kind)(d)
    if kind == "prod":
        return x.float().sign().prod(d, keep)
    if kind == "var":
        return x.float().var(d, correction=0, keepdim=keep)
    if kind in ("mean", "logsumexp"):
        x = x.float()
    return getattr(x, kind)(d, keep)


def reshaping(q: random.Random, x: Any, other: Callable) -> Any:
    a = q.choice([i for i in range(1, x.numel() + 1) if x.numel() % i == 0])
    b = q.choice([i for i in range(1, a + 1) if a % i == 0])
    return x.reshape(q.choice([(a, -1), (b, a // b, -1), (-1, b), (-1,)]))


def movement(q: random.Random, x: Any, other: Callable) -> Any:
    d = q.randrange(x.ndim)
    n = x.shape[d]
    lo = q.randrange(n)
    dims = list(range(x.ndim))
    q.shuffle(dims)
    ix: list[Any] = [slice(None)] * x.ndim
    ix[d] = slice(lo, q.randint(lo + 1, n), q.choice([1, 1, 2]))
    repeats = [q.choice([1, 2]) for _ in dims]
    picks = kiln.tensor([q.randrange(x.shape[0]) for _ in range(q.randint(1, 4))])
    moves = [
        lambda: x.permute(dims), lambda: x.flip(d), lambda: x[tuple(ix)], lambda: x[..., ::2],
        lambda: kiln.cat([x, x.flip(d), x], d), lambda: kiln.stack([x, x], d),
        lambda: F.pad(x.float(), (q.randint(0, 2), q.randint(0, 2)), value=1.5),
        lambda: x.expand(2, *x.shape), lambda: x.unsqueeze(d), lambda: x.squeeze(), lambda: x[picks],
        lambda: x.gather(d, x.float().argsort(d)), lambda: x.select(d, lo), lambda: x.roll(1, d),
        lambda: x.chunk(2, d)[-1], lambda: x.repeat(*repeats), lambda: x.flatten(),
        lambda: x.diagonal() if x.ndim > 1 else x,
    ]  # fmt: skip
    return q.choice(moves)()


def contraction(q: random.Random, x: Any, other: Callable) -> Any:
    y = x.float() * 0.1
    out = y @ y.transpose(-1, -2) if x.ndim > 1 else y @ y
    return (out + 1).relu() if q.random() < 0.5 else out


def write(q: random.Random, x: Any, other: Callable) -> Any:
    z = x.float().clone()
    half = z.transpose(0, q.randrange(z.ndim))[: max(1, z.shape[0] // 2)]
    q.choice([
        lambda: half.fill_(1), lambda: half.add_(1), lambda: z.masked_fill_(z > 0, 0),
        lambda: z.flatten()[:1].mul_(3),
    ])()  # fmt: skip
    return z


STEPS = [unary, unary, binary, binary, reduction, reshaping, movement, movement, contraction, write]


def program(seed: int) -> tuple[Callable, list[np.ndarray]]:
    """A function of tensors and arrays to call it with."""
    q, r = random.Random(seed), np.random.default_rng(seed)
    shape = tuple(q.choice([1, 2, 3, 4, 5, 8, 17]) for _ in range(q.randint(0, 4)))
    inputs: list[np.ndarray] = []
    for _ in range(q.randint(1, 3)):
        s = tuple(1 if q.random() < 0.3 else n for n in shape)
        whole = np.asarray(r.integers(-5, 6, s))
        inputs.append(q.choice([whole, whole > 0, *[np.asarray(r.normal(size=s), np.float32)] * 5]))
    length = q.randint(1, 9)

    def fn(*xs: Any) -> tuple:
        q = random.Random(seed + 1)
        values = list(xs)

        def pick() -> Any:
            return values[-1] if q.random() < 0.6 else q.choice(values)

        for _ in range(length):
            x, make = pick(), q.choice(STEPS)
            if x.ndim == 0 and make in (movement, contraction, write):
                continue
            try:
                y = make(q, x, pick)
            except kiln.errors.CaptureError:
                raise
            except kiln.errors.KilnError:
                continue  # shapes or dtypes that do not go together, in eager mode as well
            if y.numel() <= 2000 and y.ndim <= 6:
                values.append(y.clamp(-50, 50) if y.is_floating_point() else y)
        return tuple(values[len(xs) :][-3:])

    return fn, inputs
