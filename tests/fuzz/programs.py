"""A program from a seed: its inputs in many memory layouts, its steps, and what is done with it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

import kiln
from kiln.errors import CaptureError, KilnError

from . import layers, registered, sampled, steps, transforms
from .values import Values, moved

SIZES = {False: [1, 2, 3, 4, 5, 8, 17], True: [1, 3, 16, 33, 64, 70]}
DTYPES = ["float32"] * 10 + ["float64"] * 2 + ["bfloat16", "float16", "int64", "int64", "int32", "int16", "int8",
          "uint8", "bool"]  # fmt: skip
LAYOUTS = ["plain"] * 4 + ["transposed", "stepped", "offset", "flipped", "expanded"]
STEPS = [
    *[steps.unary] * 6, *[steps.binary] * 8, *[steps.reduction] * 5, *[steps.rows] * 3, *[steps.reshaping] * 3,
    *[steps.movement] * 9, *[steps.indexing] * 4, *[steps.write] * 4, steps.casting, steps.casting, steps.drawing,
    *[layers.product] * 5, *[layers.convolution] * 3, layers.pooling, layers.pooling, *[layers.norm] * 2, *[layers.loss] * 2,
    layers.attention, layers.recurrence, layers.control, *[registered.element] * 4, *[registered.into] * 2,
    *[registered.through] * 2, *[registered.picked] * 2, *[registered.placed] * 2, *[registered.complexes] * 2,
]  # fmt: skip
WIDE = [*STEPS, *[sampled.sampled] * 20, *[transforms.transformed] * 4, *[transforms.layer] * 4]
BY_VALUE = " by value"
NEEDS_DIMS = {steps.movement, steps.indexing, steps.write, steps.drawing}
# eps: what is next to nothing is not to be scaled to the size of others
OPTIMIZERS: list[Callable[[Any], Any]] = [
    lambda p: kiln.optim.SGD(p, lr=0.01), lambda p: kiln.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True),
    lambda p: kiln.optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=0.01), lambda p: kiln.optim.Adam(p, lr=0.01, eps=1e-3),
    lambda p: kiln.optim.AdamW(p, lr=0.01, eps=1e-3, amsgrad=True), lambda p: kiln.optim.RMSprop(p, lr=0.01, eps=1e-2, momentum=0.5),
    lambda p: kiln.optim.Adagrad(p, lr=0.01, eps=1e-3), lambda p: kiln.optim.Adadelta(p, eps=1e-2),
]  # fmt: skip


@dataclass
class Input:
    """An argument's numbers, its dtype and how it lies in memory."""

    array: np.ndarray
    dtype: str
    layout: str

    def tensor(self) -> Any:
        """A new tensor of it."""
        a, kind = self.array, self.layout
        if kind == "transposed" and a.ndim > 1:
            return self._plain(a.swapaxes(0, -1)).transpose(0, -1)
        if kind == "stepped" and a.ndim:
            return self._plain(np.repeat(a, 2, -1))[..., ::2]
        if kind == "offset" and a.ndim:
            return self._plain(np.concatenate([a[:1], a]))[1 if len(a) else 0 :]
        if kind == "flipped" and a.ndim:
            return kiln.from_numpy(self._plain(a[..., ::-1]).numpy()[..., ::-1])
        if kind == "channels last" and a.ndim in (4, 5):
            last = kiln.channels_last if a.ndim == 4 else kiln.channels_last_3d
            return self._plain(a).contiguous(memory_format=last)
        if kind == "expanded" and a.ndim and a.shape[0] > 0:
            return self._plain(a[:1]).expand(*a.shape)
        return self._plain(a)

    def _plain(self, a: np.ndarray) -> Any:
        return kiln.tensor(np.ascontiguousarray(a)).to(getattr(kiln, self.dtype))


@dataclass
class Program:
    """A function of tensors, reproducible from its seed.

    With `jitter` each step's result is moved by a last place or so. The steps that `left_out` numbers are
    refused; `reasons` says why others were. `kind` says what is done with it: `forward`, `gradient` (backward of a scalar of its results), `inside`
    (the same, compiled with its backward) or `training` (that and an optimizer's update, twice).
    """

    seed: int
    inputs: list[Input]
    length: int
    kind: str
    weights: dict[Any, Any] = field(default_factory=dict)
    trail: list[str] = field(default_factory=list)
    left_out: set[int] = field(default_factory=set)
    reasons: dict[int, str] = field(default_factory=dict)
    jitter: np.random.Generator | None = None
    large: bool = False
    wide: bool = False

    def __call__(self, *xs: Any) -> tuple:
        v = Values(self.seed + 1, xs, self.weights, self.large)
        trail: list[str] = []
        reasons: dict[int, str] = {}
        # assigned, not changed: what a captured function changes it may not read
        self.trail, self.reasons = trail, reasons
        for step in range(self.length):
            v.begin(step)
            x, make = v.pick(), v.q.choice(WIDE if self.wide else STEPS)
            if x.ndim == 0 and make in NEEDS_DIMS:
                continue
            state = v.q.getstate()
            try:
                if step in self.left_out:
                    raise ValueError("left out")
                y = make(v, x)
            except (KilnError, IndexError, ValueError) as e:
                if isinstance(e, CaptureError) and not v.by_value:
                    raise
                v.q.setstate(state)  # what is refused draws the same choices wherever it is refused
                v.q.random()
                reasons[step] = str(e)
                # without the reason, which may be another where it is captured
                trail.append(f"{step} {make.__name__}{v.note} refused")
                continue
            sizes = BY_VALUE if v.by_value else ""
            trail.append(f"{step} {make.__name__}{v.note}{sizes} -> {y.dtype.name}{list(y.shape)}")
            if self.jitter is not None:
                y = moved(y, self.jitter)
            if y.numel() <= v.limit and y.ndim <= 6:
                v.all.append(y)
        return tuple(v.all[len(xs) :][-3:])

    def optimizer(self, parameters: list[Any]) -> Any:
        """The optimizer of a `training` program."""
        return random.Random(self.seed + 2).choice(OPTIMIZERS)(parameters)


def program(seed: int, wide: bool = False) -> Program:
    """The program of a seed; a `wide` one has any public op, transforms and layers, complex and emptier inputs."""
    q, r = random.Random(seed), np.random.default_rng(seed)
    large = seed % 12 == 7
    rank = q.choice([2, 3]) if large else q.choice([0, 1, 2, 2, 3, 3, 4])
    shape = tuple(q.choice(SIZES[large]) for _ in range(rank))
    if q.random() < 0.03:
        shape = tuple(0 if i == 0 else n for i, n in enumerate(shape))
    if wide and rank and q.random() < 0.05:
        empty = q.sample(range(rank), q.randint(1, rank))
        shape = tuple(0 if i in empty else n for i, n in enumerate(shape))
    inputs = []
    for _ in range(q.randint(1, 3)):
        s = tuple(1 if q.random() < 0.2 and n else n for n in shape)
        dtype = q.choice(DTYPES + ["complex64", "complex128"] * wide)
        whole = q.random() < 0.2 or not ("float" in dtype or "complex" in dtype)
        a = (
            r.integers(0 if dtype == "uint8" else -5, 6, s).astype(np.float32)
            if whole
            else r.normal(size=s)
        )
        if dtype == "bool":
            a = a > 0
        if "complex" in dtype:
            a = a + 1j * r.normal(size=s)
        layout = q.choice(LAYOUTS + ["channels last"] * wide)
        inputs.append(Input(np.asarray(a), dtype, layout))
    kind = q.choice(["forward"] * 4 + ["gradient", "inside", "inside", "training"])
    if kind == "training":  # nobody can write to elements that share their memory
        inputs = [
            replace(i, layout="plain") if i.layout in ("expanded", "flipped") else i for i in inputs
        ]
    return Program(seed, inputs, q.randint(1, 6 if large else 10), kind, large=large, wide=wide)
