"""The same programs in PyTorch: their text is in its API, so it is loaded again with `kiln` meaning torch.

Random numbers are Kiln's in both. What only one of them refuses is a finding, but for `GAPS`, where PyTorch says
itself that it has no such kernel or derivative, and for `TAKEN`, where it refuses the same in other routines. Then
the step is left out of the program everywhere, or the program compared without gradients.
"""

from __future__ import annotations

import functools
import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import kiln
from kiln.errors import KilnError

from . import checks
from .checks import Arrays, Runs, Verdict, compare, judge, tolerance, unlike
from .programs import Program

TEXTS = ("values", "steps", "layers", "registered", "sampled", "transforms", "programs", "checks")
GAPS = {
    "no kernel": r"not implemented for '|not supported on CPU|^MKL FFT error",
    "no derivative": r"derivative for .* is not implemented|does not support automatic differentiation",
    # in some of its ops, among them max_pool2d, gather and cummax, which read no more of it than its shape
    "keeps more for its backward": r"has been modified by an inplace operation",
    # after an integer was compared in place with what requires grad, in products of complex matrices
    "fails inside": r"INTERNAL ASSERT FAILED|Could this error message be improved|Autograd not support dtype|"
    r"returned an invalid gradient|undefined Tensor in C\+\+|"
    r"could not construct a memory descriptor|"  # its library for bfloat16 products
    r"Subtraction, the `-` operator, with a bool|"  # a power's backward, of an exponent of bools (30000483)
    r"view_as_real doesn't work on unresolved conj",  # as its optimizers call it
}
TAKEN = {  # by torch in some of its routines, refused in the others
    "takes an empty transposed convolution": r"^\[conv_transpose.*the output would have size",
}
REFUSALS = "(RuntimeError, IndexError, ValueError, TypeError, NotImplementedError)"


stage: Callable[[str], Any] = str
"""Told what it is if the process dies from here on, as torch does in gradients of group_norm (7207420)."""


class _Torch(ModuleType):
    """torch, and what Kiln has beside it: control flow that is Python in eager mode, Kiln's random numbers."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module("torch"), name)

    @staticmethod
    def scan(fn: Callable, carry: Any, xs: Any) -> tuple[Any, Any]:
        """kiln.scan over tensors."""
        ys = []
        for x in xs:
            carry, y = fn(carry, x)
            ys.append(y)
        return carry, sys.modules["torch"].stack(ys)

    @staticmethod
    def cond(flag: Any, yes: Callable, no: Callable, operands: tuple) -> Any:
        """kiln.cond."""
        return (yes if bool(flag) else no)(*operands)

    @staticmethod
    def while_loop(test: Callable, body: Callable, carry: tuple) -> tuple:
        """kiln.while_loop."""
        while bool(test(*carry)):
            carry = body(*carry)
        return carry

    manual_seed = staticmethod(kiln.manual_seed)

    @staticmethod
    def rand(*shape: Any) -> Any:
        """kiln.rand."""
        return crossed(kiln.rand(*shape))

    @staticmethod
    def randn(*shape: Any) -> Any:
        """kiln.randn."""
        return crossed(kiln.randn(*shape))

    @staticmethod
    def randint(*limits: Any) -> Any:
        """kiln.randint."""
        return crossed(kiln.randint(*limits))

    @staticmethod
    def rand_like(x: Any) -> Any:
        """kiln.rand_like."""
        return crossed(kiln.rand_like(uncrossed(x)))

    @staticmethod
    def bernoulli(x: Any) -> Any:
        """kiln.bernoulli, whose gradient is zero whatever comes back."""
        out = sys.modules["torch"].bernoulli(x)
        out.data.copy_(crossed(kiln.bernoulli(uncrossed(x))))
        return out


class _Functional(ModuleType):
    """torch.nn.functional with Kiln's dropout."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module("torch.nn.functional"), name)

    @staticmethod
    def dropout(x: Any, p: float) -> Any:
        """F.dropout."""
        return x * crossed(kiln.nn.functional.dropout(kiln.ones_like(uncrossed(x)), p))


def _loaded(name: str) -> ModuleType:
    load()
    return sys.modules[f"{__package__}.torch_{name}"]


@functools.cache
def load() -> None:
    """The texts as modules for torch."""
    import torch

    torch.set_num_threads(1)

    for name, made in {"torch_kiln": _Torch, "torch_functional": _Functional}.items():
        sys.modules[f"{__package__}.{name}"] = made(name)
        setattr(sys.modules[__package__ or ""], name, sys.modules[f"{__package__}.{name}"])
    for name in TEXTS:
        text = (Path(__file__).parent / f"{name}.py").read_text()
        for old, new in {
            "import kiln.nn.functional as F": "from . import torch_functional as F",
            "import kiln\n": "from . import torch_kiln as kiln\n",
            "from kiln import dtypes as dt": "",
            "dt.bool_": "kiln.bool",
            ".dtype.name": ".dtype.__str__()[6:]",
            "from kiln.errors import CaptureError, KilnError": f"KilnError, CaptureError = RuntimeError, SystemExit\nREFUSALS = {REFUSALS}",
            "(KilnError, IndexError, ValueError)": "REFUSALS",
            "from . import layers, registered, sampled, steps, transforms": "from . import torch_layers as layers, torch_registered as registered, torch_sampled as sampled, torch_steps as steps, torch_transforms as transforms",
            "from kiln.errors import KilnError": "KilnError = RuntimeError",
            "from .values": "from .torch_values",
            "from .programs": "from .torch_programs",
            "from .registered": "from .torch_registered",
            "kiln.from_numpy(self._plain(a[..., ::-1]).numpy()[..., ::-1])": "self._plain(a)",
        }.items():
            text = text.replace(old, new)
        full = f"{__package__}.torch_{name}"
        spec = importlib.util.spec_from_loader(full, loader=None)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        module.__package__ = __package__
        sys.modules[full] = module
        setattr(sys.modules[__package__ or ""], f"torch_{name}", module)
        exec(compile(text, full, "exec"), module.__dict__)


def crossed(w: Any) -> Any:
    """A tensor or module of Kiln's as torch's, in the same memory order."""
    import torch

    if isinstance(w, kiln.Tensor):
        dims = sorted(range(w.ndim), key=lambda d: -w.stride(d))
        a = (
            w.detach().permute(dims).float()
            if "float" in w.dtype.name and w.dtype.itemsize == 2
            else w.detach().permute(dims)
        )
        t = torch.from_numpy(np.array(a.numpy(), order="C")).to(getattr(torch, w.dtype.name))
        return t.permute([dims.index(d) for d in range(w.ndim)])
    args, options = w.made
    made = getattr(torch.nn, type(w).__name__)(*args, **options)
    made.load_state_dict({k: crossed(v) for k, v in w.state_dict().items()})
    return made


def uncrossed(t: Any) -> Any:
    """A tensor of torch's as Kiln's."""
    a = t.detach()
    return kiln.tensor((a.float() if a.element_size() == 2 else a).numpy()).to(
        getattr(kiln, str(t.dtype)[6:])
    )


class Refused(Exception):
    """torch refuses the whole program, as it runs or in its backward."""


def run(runs: Runs) -> tuple[Arrays, Program]:
    """What torch's eager mode gives for a program from the same weights, and the program that ran."""
    p, other = runs.p, _loaded("programs").program(runs.p.seed, runs.p.wide)
    other.weights = {k: crossed(w) for k, w in p.weights.items()}
    other.left_out, other.kind = p.left_out, p.kind
    stage("torch died")
    try:
        return _loaded("checks").Runs(other).first(), other
    except (RuntimeError, ValueError) as e:
        raise Refused(str(e)) from e
    finally:
        stage("crashed")


def check(p: Program, deep: bool = False) -> Verdict:
    """Compare the program in eager mode with torch's, then compiled with eager mode."""
    gaps: list[str] = []
    while True:
        verdict, gap, step = _beside(p)
        if not gap:
            break
        gaps.append(gap)
        if step is None:
            p.kind = "forward"
        else:
            p.left_out.add(step)
    if verdict.status not in ("differs", "refused"):
        other = checks.check(p, deep)
        verdict.digest = other.digest
        verdict = verdict if other.status == "same" else other
    verdict.gaps = gaps
    return verdict


def gap_of(text: str, gaps: dict[str, str] = GAPS) -> str:
    """Which of `gaps` a refusal names; empty where it has another reason."""
    return next((name for name, pattern in gaps.items() if re.search(pattern, text)), "")


def _beside(p: Program) -> tuple[Verdict, str, int | None]:
    """The program in eager mode beside torch's; what torch lacks, and in which step."""
    refusal, runs = "", Runs(p)
    try:
        want = runs.first()
    except KilnError as e:
        refusal, want = str(e), []
    trail, bounds = list(p.trail), [tolerance(runs)] * len(want)
    try:
        got, other = run(runs)
    except Refused as e:
        if refusal:
            return Verdict("refused", refusal), "", None
        gap = gap_of(str(e)) if p.kind != "forward" else ""
        return Verdict("differs", f"torch refuses the program: {e}"), gap, None
    if found := unlike(other.trail, trail):
        step = int(found.split()[0])
        there, here = other.reasons.get(step, ""), p.reasons.get(step, "")
        gap = gap_of(there) if there else gap_of(here, TAKEN)
        found = "in torch " + found.replace("in eager mode", "in Kiln") + (there or here)
        return Verdict("differs", found), gap, step
    if refusal:
        return Verdict("differs", f"torch takes the program: {refusal}"), "", None
    found = compare(got, want, bounds)
    if found and judge(runs, got, want, bounds):
        return Verdict("ill-conditioned", found), "", None
    return Verdict("differs", "beside torch: " + found) if found else Verdict("same"), "", None
