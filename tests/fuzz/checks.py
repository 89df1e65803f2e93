"""What must agree: a program compiled and in eager mode, threads, instruction sets, caches.

Results are compared within a tolerance of the coarsest dtype that the program goes through, relative to
each element and to the largest one: `TOLERANCE`. Eager mode rounds where its ops end, compiled programs
where memory is written, so a program that magnifies a rounding (it compares, sorts or divides what is
nearly equal) may differ by more. Such a one is told apart by running eager mode again, each value's last
place moved: what that does to its own results, a compiled program may do as well.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import kiln
from kiln.errors import KilnError

from .programs import BY_VALUE, Program
from .values import moved

TOLERANCE = {
    "float64": 1e-9, "complex128": 1e-9, "float32": 1e-4, "complex64": 1e-4, "float16": 2e-2, "bfloat16": 1e-1,
}  # fmt: skip
MAGNIFIED = 100  # how much more than eager's own movement a compiled result may be away
DIVISION = "integer division by zero"
Arrays = list[tuple[str, np.ndarray]]


@dataclass
class Verdict:
    """`same`, `ill-conditioned`, `refused` (by eager mode too), or `differs`, with what and where.

    `digest` names the bits of the result, `gaps` what PyTorch lacks for it.
    """

    status: str
    detail: str = ""
    digest: str = ""
    gaps: list[str] = field(default_factory=list)


def arrays(tensors: Any) -> Arrays:
    """Dtypes and copies of the numbers of tensors; half floats as float32."""
    found = []
    for t in tensors:
        if t is None:
            found.append(("none", np.zeros(())))
            continue
        t = t.detach()
        name = t.dtype.name
        a = (t.float() if name in ("float16", "bfloat16") else t).numpy(force=True)
        found.append((name, np.array(a, copy=True, order="C")))
    return found


def digest(results: Arrays) -> str:
    """A name for dtypes, shapes and bits."""
    h = hashlib.sha256()
    for name, a in results:
        h.update(f"{name}{a.shape}".encode() + a.tobytes())
    return h.hexdigest()[:16]


class Runs:
    """Ways to run one program, each from the same inputs, weights and random numbers."""

    def __init__(self, p: Program):
        self.p = p
        self.start: dict[int, Any] = {}
        self.made: dict[Any, Any] = {}
        self.scale = 1.0  # of the weights

    def first(self) -> Arrays:
        """What eager mode gives, once all weights are made; KilnError where it refuses the program."""
        made = -1
        while made < len(self.p.weights):
            made = len(self.p.weights)
            # it may not be refused, or others be, where weights require grad
            with suppress(KilnError):
                self.run(False)
        return self.run(False)

    def parameters(self) -> list[Any]:
        """The floating weights that the program made, its modules' included."""
        found = []
        for w in self.p.weights.values():
            if isinstance(w, kiln.Tensor):
                found += [w] if w.is_floating_point() or w.is_complex() else []
            else:
                found += list(w.parameters())
        return found

    def run(
        self, compiled: bool, jitter: np.random.Generator | None = None, **options: Any
    ) -> Arrays:
        """Results, then arguments and weights afterwards, gradients where there are any; weights are as before then."""
        weights = self.parameters()
        with kiln.no_grad():
            for w in weights:
                value = self.start.setdefault(id(w), w.detach().clone()) * self.scale
                w.copy_(value if jitter is None else moved(value, jitter))
        try:
            return self._run(weights, compiled, jitter, options)
        finally:
            with kiln.no_grad():
                for w in weights:
                    w.copy_(self.start[id(w)])

    def _run(self, weights: list[Any], compiled: bool, jitter: Any, options: dict) -> Arrays:
        p = self.p
        kiln.manual_seed(p.seed)
        p.jitter = jitter
        xs = [i.tensor() for i in p.inputs]
        if jitter is not None:
            with kiln.no_grad():
                xs = [moved(x, jitter) for x in xs]

        def make(fn: Any) -> Any:
            if not compiled:
                return fn
            made = kiln.compile(fn, **options)
            key = tuple(options.items())
            # an optimizer is made for one run; anything else is compiled once and called again
            return made if p.kind == "training" else self.made.setdefault(key, made)

        if p.kind == "forward":
            with kiln.no_grad():
                return arrays([*make(p)(*xs), *xs])
        for t in [*xs, *weights]:
            if t.is_floating_point() or t.is_complex():
                t.requires_grad_(True)
                t.grad = None
        leaves = [t for t in [*xs, *weights] if t.requires_grad]
        fn = make(p) if p.kind == "gradient" else p
        opt = p.optimizer(leaves) if p.kind == "training" else None

        def step(*xs: Any) -> Any:
            outs = fn(*xs)
            if opt:
                opt.zero_grad()
            terms = [
                ((real(o).float() * 0.3).cos() * (i + 1)).sum()
                for i, o in enumerate(outs)
                if o.requires_grad
            ]
            if terms:
                sum(terms).backward()
            if opt:
                opt.step()
            return tuple(o.detach() for o in outs)

        call = make(step) if p.kind in ("inside", "training") else step
        outs = call(*xs)
        if opt:
            outs = call(*xs)
        found = arrays([*outs, *leaves, *(t.grad for t in leaves)])
        for t in weights:
            t.requires_grad_(False)
            t.grad = None
        return found


def real(t: Any) -> Any:
    """A tensor, or both parts of a complex one."""
    return kiln.view_as_real(t.resolve_conj()) if t.is_complex() else t


def distance(got: np.ndarray, want: np.ndarray) -> float:
    """The largest distance, relative to each element and the largest one; infinite where NaN or inf differ."""
    if got.dtype.kind in "bi" or got.dtype.kind == "u":
        return 0.0 if np.array_equal(got, want) else np.inf
    if got.dtype.kind == "c":
        return max(distance(got.real, want.real), distance(got.imag, want.imag))
    a, b = got.astype(np.float64), want.astype(np.float64)
    special = ~(np.isfinite(a) & np.isfinite(b))
    if not np.array_equal(a[special], b[special], equal_nan=True):
        return np.inf
    a, b = a[~special], b[~special]
    if not a.size:
        return 0.0
    scale = np.abs(b) + min(1.0 + np.abs(b).max(), 1e3)
    return float((np.abs(a - b) / scale).max())


def same_none(a: tuple[str, np.ndarray], b: tuple[str, np.ndarray]) -> bool:
    """Whether one gradient is none and the other one none or zero."""
    return "none" in (a[0], b[0]) and not a[1].any() and not b[1].any()


def compare(got: Arrays, want: Arrays, bounds: list[float]) -> str:
    """Empty where all agree within the bounds, else the first that does not."""
    if len(got) != len(want):
        return f"{len(got)} results instead of {len(want)}"
    for i, ((n, a), (m, b), bound) in enumerate(zip(got, want, bounds, strict=True)):
        if same_none((n, a), (m, b)):
            continue
        if (n, a.shape) != (m, b.shape):
            return f"result {i}: {n}{list(a.shape)} instead of {m}{list(b.shape)}"
        if not (d := distance(a, b)) <= bound:
            return f"result {i} ({m}{list(b.shape)}) is {d:.2g} away, {bound:.2g} allowed"
    return ""


def check(p: Program, deep: bool = False) -> Verdict:
    """Compare the program compiled with eager mode, on other threads, with other weights.

    `deep` adds the reference backend. Captured programs rightly refuse a step whose sizes depend on values, and
    for a zero among divisors the whole call instead of the step: such a step is left out in both.
    """
    runs = Runs(p)
    try:
        want = runs.first()
    except KilnError as e:
        try:
            runs.run(True)
        except KilnError:
            return Verdict("refused", str(e))
        return Verdict("differs", f"compiled it is not refused: {e}")
    trail, reasons = list(p.trail), p.reasons
    bounds = [tolerance(runs)] * len(want)
    error = ""
    try:
        got = runs.run(True)
    except Exception as e:
        error = f"{type(e).__name__}: {e}"
    if other := unlike(p.trail, trail):
        step = int(other.split()[0])
        if "refused" in other and (BY_VALUE in other or DIVISION in reasons.get(step, "")):
            p.left_out.add(step)
            p.weights.clear()
            return check(p, deep)
    if other or error:
        return Verdict("differs", other + error)
    name = digest(got)
    found = compare(got, want, bounds)
    if found and judge(runs, got, want, bounds):
        return Verdict("ill-conditioned", found, name)
    if found:
        return Verdict("differs", found, name)
    before = kiln.get_num_threads()
    for n in (1, 2, 3) if deep else (1, 3) if p.kind != "training" else ():
        kiln.set_num_threads(n)
        bits = digest(runs.run(True))
        kiln.set_num_threads(before)
        if bits != name:
            return Verdict("differs", f"other bits on {n} threads", name)
    if deep:
        again = runs.run(True, backend="reference")
        found = compare(again, want, bounds)
        if found and not judge(runs, again, want, bounds):
            return Verdict("differs", "reference backend: " + found, name)
    if p.kind != "training":  # what is kept from call to call follows the weights
        runs.scale = 0.5
        want = runs.run(False)
        if not any(DIVISION in reason for reason in p.reasons.values()):
            got = runs.run(True)
            found = compare(got, want, bounds)
            if found and not judge(runs, got, want, bounds):
                return Verdict("differs", "other weights: " + found, name)
    return Verdict("same", "", name)


def tolerance(runs: Runs) -> float:
    """That of the coarsest dtype that the last run went through."""
    p = runs.p
    passed = [*describe(p), *(w.dtype.name for w in runs.parameters())]
    if p.kind != "forward" or any("drawing" in step for step in p.trail):
        passed.append("float32")  # of the scalar that backward starts from, of random numbers
    return max(TOLERANCE[n] for n in TOLERANCE if any(n in line for line in ["float64", *passed]))


def unlike(got: list[str], want: list[str]) -> str:
    """Empty where the same steps were taken, else the first that was not."""
    for a, b in zip(got, want, strict=False):
        if a != b and not ("refused" in a and "refused" in b):
            return f"{a}, in eager mode {b}; "
    return ""


def judge(runs: Runs, got: Arrays, want: Arrays, bounds: list[float]) -> bool:
    """Whether eager mode itself moves so far when its inputs' last places do."""
    wide = list(bounds)
    for k in range(6):
        moved = runs.run(False, np.random.default_rng(k))
        if len(moved) != len(want):
            return False
        for i, ((_, a), (_, b)) in enumerate(zip(moved, want, strict=True)):
            if a.shape == b.shape:
                wide[i] = max(wide[i], MAGNIFIED * distance(a, b))
    return not compare(got, want, wide)


def describe(p: Program) -> list[str]:
    """The inputs and the steps that the last run took."""
    return [*(f"{i.dtype}{list(i.array.shape)} {i.layout}" for i in p.inputs), *p.trail]
