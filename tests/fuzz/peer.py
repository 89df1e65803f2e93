"""The same programs in PyTorch: their text is in its API, so it is loaded again with `kiln` meaning torch."""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import kiln
from kiln.errors import KilnError

from .checks import Arrays, Runs, Verdict, compare, judge, tolerance, unlike
from .programs import Program

TEXTS = ("values", "steps", "layers", "registered", "programs", "checks")
REFUSALS = "(RuntimeError, IndexError, ValueError, TypeError, NotImplementedError)"


class _Torch(ModuleType):
    """torch, and what Kiln has beside it: control flow that is Python in eager mode."""

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


def _loaded(name: str) -> ModuleType:
    _load()
    return sys.modules[f"{__package__}.torch_{name}"]


@functools.cache
def _load() -> None:
    """The texts as modules for torch."""
    import torch  # noqa: F401

    sys.modules[f"{__package__}.torch_kiln"] = _Torch("torch_kiln")
    for name in TEXTS:
        text = (Path(__file__).parent / f"{name}.py").read_text()
        for old, new in {
            "import kiln.nn.functional as F": "import torch.nn.functional as F",
            "import kiln\n": "from . import torch_kiln as kiln\n",
            "from kiln import dtypes as dt": "",
            "dt.bool_": "kiln.bool",
            ".dtype.name": ".dtype.__str__()[6:]",
            "from kiln.errors import CaptureError, KilnError": f"KilnError, CaptureError = RuntimeError, SystemExit\nREFUSALS = {REFUSALS}",
            "(KilnError, IndexError, ValueError)": "REFUSALS",
            "from . import layers, registered, steps": "from . import torch_layers as layers, torch_registered as registered, torch_steps as steps",
            "from kiln.errors import KilnError": "KilnError = RuntimeError",
            "from .values": "from .torch_values",
            "from .programs": "from .torch_programs",
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
    sys.modules[__package__ or ""].torch_kiln = sys.modules[f"{__package__}.torch_kiln"]


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
    made = getattr(torch.nn, type(w).__name__)(
        w.input_size, w.hidden_size, w.num_layers, bidirectional=w.bidirectional
    )
    made.load_state_dict({k: crossed(v) for k, v in w.state_dict().items()})
    return made


def run(runs: Runs) -> tuple[Arrays, list[str]]:
    """What torch's eager mode gives for a program from the same weights, and the steps that it took."""
    p, other = runs.p, _loaded("programs").program(runs.p.seed)
    with kiln.no_grad():
        for w in runs.parameters():
            w.copy_(runs.start[id(w)])
    other.weights = {k: crossed(w) for k, w in p.weights.items()}
    return _loaded("checks").Runs(other).run(False), other.trail


def check(p: Program) -> Verdict:
    """Compare the program in eager mode with torch's; `drawn` where it has random numbers, which differ."""
    try:
        runs = Runs(p)
        want = runs.run(False)
    except KilnError as e:
        return Verdict("refused", str(e))
    trail, bounds = list(p.trail), [tolerance(runs)] * len(want)
    if any("drawing" in step for step in trail):
        return Verdict("drawn")
    got, steps = run(runs)
    if other := unlike(steps, trail):
        return Verdict("differs", "in torch " + other.replace("in eager mode", "in Kiln"))
    found = compare(got, want, bounds)
    if found and judge(runs, got, want, bounds):
        return Verdict("ill-conditioned", found)
    return Verdict("differs", found) if found else Verdict("same")
