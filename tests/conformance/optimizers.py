"""PyTorch's optimizer database held against Kiln: `python -m tests.conformance.optimizers [PATTERN]`.

Each entry's inputs are run beside PyTorch from the same parameters and gradients: ten steps in several
dtypes, sparse gradients, captured steps, schedules, gradients through a step, state dicts in files both
ways, and the entry's error inputs. `--quick` leaves out what compiles.
"""

from __future__ import annotations

import argparse
import collections
import copy
import io
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.testing._internal.common_optimizers import OptimizerErrorEnum, optim_db

import kiln

SHAPES = [(5, 4), (5,), (2, 3, 2), ()]
DTYPES = ("float32", "float64", "complex64", "complex128", "bfloat16")
# NAdam, Adamax and others keep their scalars in float32 in both, whatever the parameters are
TOLERANCE = {
    "float32": 1e-5,
    "complex64": 1e-5,
    "float64": 1e-6,
    "complex128": 1e-6,
    "bfloat16": 3e-2,
}
Case = tuple[str, Callable[[], str | None]]


def mine(value: Any) -> Any:
    """PyTorch's value as Kiln's."""
    if isinstance(value, torch.nn.Parameter):
        return kiln.nn.Parameter(mine(value.detach()))
    if isinstance(value, torch.Tensor) and value.layout is torch.sparse_coo:
        return kiln.sparse_coo_tensor(mine(value._indices()), mine(value._values()), value.shape)
    if isinstance(value, torch.Tensor):
        wide = value.detach().double() if value.dtype is torch.bfloat16 else value.detach()
        return kiln.tensor(wide.numpy(), dtype=getattr(kiln, str(value.dtype)[6:]))
    if isinstance(value, dict):
        return {k: mine(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(mine(v) for v in value)
    return value


def array(t: Any) -> np.ndarray:
    if isinstance(t, torch.Tensor):
        t = t.detach()
        return (t.double() if t.dtype is torch.bfloat16 else t).numpy()
    t = t.detach()
    return (t.double() if t.dtype is kiln.bfloat16 else t).numpy()


def difference(theirs: list, ours: list, tolerance: float, what: str) -> str | None:
    """Where two lists of tensors are apart."""
    for i, (a, b) in enumerate(zip(theirs, ours, strict=True)):
        x, y = array(a), array(b)
        if x.shape != y.shape:
            return f"{what}, tensor {i}: shape {y.shape} for {x.shape}"
        if not np.allclose(y, x, rtol=tolerance, atol=tolerance, equal_nan=True):
            return f"{what}, tensor {i}: off by {np.abs(x - y).max():.2e}"
    return None


def start(info: Any, dtype: str) -> tuple[list, list]:
    """The same parameters for both."""
    r = np.random.default_rng(1)
    shapes = [(5, 4), (3, 4)] if info.optim_cls.__name__ == "Muon" else SHAPES
    made = []
    for shape in shapes:
        values = r.standard_normal(shape)
        if dtype.startswith("complex"):
            values = values + 1j * r.standard_normal(shape)
        made.append(torch.tensor(values).to(getattr(torch, dtype)))
    theirs = [torch.nn.Parameter(v) for v in made]
    return theirs, [mine(p) for p in theirs]


def loss_of(params: list, i: int) -> Any:
    total: Any = 0.0
    for p in params:
        q = p.abs() if p.is_complex() else p
        total = total + ((q * (1 + i % 3) - 0.5) ** 2).sum() + q.sin().sum()
    return total


def closure(opt: Any, params: list, i: int) -> Callable[[], Any]:
    def compute() -> Any:
        opt.zero_grad()
        loss = loss_of(params, i)
        loss.backward()
        return loss

    return compute


def descend(info: Any, opt: Any, params: list, steps: int, first: int = 0) -> None:
    for i in range(first, first + steps):
        if info.step_requires_closure:
            opt.step(closure(opt, params, 0))  # a history of steps is of one function
        else:
            compute = closure(opt, params, i)
            compute()
            opt.step()


def build(info: Any, theirs: list, ours: list, options: dict) -> tuple[Any, Any]:
    name = info.optim_cls.__name__
    ours_cls = getattr(kiln.optim, name)
    return info.optim_cls(theirs, **options), ours_cls(ours, **mine(options))


def steps(info: Any, options: dict, dtype: str) -> str | None:
    """Ten steps, and the state after them."""
    theirs, ours = start(info, dtype)
    a, b = build(info, theirs, ours, options)
    for i in range(10):
        descend(info, a, theirs, 1, i)
        descend(info, b, ours, 1, i)
        # a line search that divides by differences of losses shows the last bits of float32
        loose = 30 if info.step_requires_closure else 1
        if off := difference(theirs, ours, loose * TOLERANCE[dtype], f"step {i}"):
            return off
    x, y = a.state_dict(), b.state_dict()
    if x["param_groups"][0].keys() != y["param_groups"][0].keys():
        return f"options differ: {x['param_groups'][0].keys() ^ y['param_groups'][0].keys()}"
    for k in x["state"]:
        if x["state"][k].keys() != y["state"].get(k, {}).keys():
            return f"state differs: {sorted(x['state'][k])} for {sorted(y['state'].get(k, {}))}"
    return None


def sparse_steps(info: Any, options: dict) -> str | None:
    """Ten steps by sparse gradients."""
    r = np.random.default_rng(2)
    value = r.standard_normal((6, 3))
    theirs, ours = torch.nn.Parameter(torch.tensor(value)), kiln.nn.Parameter(kiln.tensor(value))
    a, b = build(info, [theirs], [ours], options)
    for i in range(10):
        at, values = r.integers(0, 6, 4), r.standard_normal((4, 3))
        theirs.grad = torch.sparse_coo_tensor(torch.tensor(at)[None], torch.tensor(values), (6, 3))
        ours.grad = kiln.sparse_coo_tensor(kiln.tensor(at)[None], kiln.tensor(values), (6, 3))
        a.step()
        b.step()
        if off := difference([theirs], [ours], TOLERANCE["float64"], f"step {i}"):
            return off
    return None


def travels(info: Any, options: dict) -> str | None:
    """State dicts saved by one and loaded by the other, both ways."""
    theirs, ours = start(info, "float32")
    a, b = build(info, theirs, ours, options)
    descend(info, a, theirs, 3)
    descend(info, b, ours, 3)
    to_kiln, to_torch = io.BytesIO(), io.BytesIO()
    torch.save(a.state_dict(), to_kiln)
    kiln.save(b.state_dict(), to_torch, format="torch")
    to_kiln.seek(0)
    to_torch.seek(0)
    theirs = [torch.nn.Parameter(torch.tensor(array(p))) for p in ours]
    ours = [kiln.nn.Parameter(kiln.tensor(array(p))) for p in theirs]
    a, b = build(info, theirs, ours, options)
    a.load_state_dict(torch.load(to_torch, weights_only=True))
    b.load_state_dict(kiln.load(to_kiln))
    descend(info, a, theirs, 3, 3)
    descend(info, b, ours, 3, 3)
    return difference(theirs, ours, 1e-4, "after loading")


def captured(info: Any, options: dict) -> str | None:
    """Steps as one program, against eager ones."""
    _, ours = start(info, "float32")
    _, again = start(info, "float32")
    cls, options = getattr(kiln.optim, info.optim_cls.__name__), mine(options)
    a, b = cls(ours, **options), cls(again, **options)
    if info.step_requires_closure:
        fast = kiln.compile(closure(b, again, 0))
        for _ in range(3):
            a.step(closure(a, ours, 0))
            b.step(fast)
        return difference(ours, again, 1e-4, "compiled closure")

    def step() -> Any:
        loss = closure(b, again, 0)()
        b.step()
        return loss

    run = kiln.compile(step)
    for _ in range(4):
        closure(a, ours, 0)()
        a.step()
        run()
    if run.captures != 1:
        return f"captured {run.captures} times"
    return difference(ours, again, 3e-2 if cls.__name__ == "Muon" else 1e-5, "captured")


def differentiable(info: Any, options: dict) -> str | None:
    """Gradients through a step."""
    theirs, ours = start(info, "float64")
    a, b = [], []
    for lib, params, out in ((torch, theirs, a), (kiln, ours, b)):
        cls = getattr(lib.optim, info.optim_cls.__name__)
        given = {**(options if lib is torch else mine(options)), "differentiable": True}
        grads = [(p.detach() * 0.7 + 0.1).requires_grad_(True) for p in params]
        moved = [p.clone() for p in params]
        for p, g in zip(moved, grads, strict=True):
            p.grad = g
        cls(moved, **given).step()
        total = sum((p * p).sum() for p in moved)
        out += lib.autograd.grad(total, grads, allow_unused=True)
    if options.get("momentum") and info.optim_cls is torch.optim.SGD:
        # PyTorch cuts the buffer's first gradient off from its history, Kiln doesn't
        return None if all(g is not None for g in b) else "no gradient through a step"
    return difference(a, b, 1e-6, "gradient through a step")


def schedule(info: Any, make: list) -> str | None:
    """Ten steps with an entry's schedulers."""
    theirs, ours = start(info, "float64")
    kw = {"lr": 0.01}
    a, b = build(info, theirs, ours, kw)
    found = []
    for lib, opt, params in ((torch, a, theirs), (kiln, b, ours)):
        with substituted(lib):
            schedulers = [m(opt) for m in make]
        rates = []
        for i in range(10):
            descend(info, opt, params, 1, i)
            for s in schedulers:
                s.step(1.0) if type(s).__name__ == "ReduceLROnPlateau" else s.step()
            rates.append([float(g["lr"]) for g in opt.param_groups])
        found.append(rates)
    if not np.allclose(found[0], found[1], rtol=1e-12):
        return f"rates {found[1]} for {found[0]}"
    return difference(theirs, ours, 1e-5, "after ten scheduled steps")


class substituted:
    """The schedulers that PyTorch's database names, as those of a library."""

    NAMES = (
        "ConstantLR",
        "ExponentialLR",
        "LinearLR",
        "PolynomialLR",
        "ReduceLROnPlateau",
        "StepLR",
    )

    def __init__(self, lib: Any) -> None:
        self.lib = lib

    def __enter__(self) -> None:
        import torch.testing._internal.common_optimizers as database

        for name in self.NAMES:
            setattr(database, name, getattr(self.lib.optim.lr_scheduler, name))

    def __exit__(self, *_: object) -> None:
        import torch.testing._internal.common_optimizers as database

        for name in self.NAMES:
            setattr(database, name, getattr(torch.optim.lr_scheduler, name))


def refusal(info: Any, error: Any) -> str | None:
    """An error input raises the same class, at the same time."""
    given = error.optimizer_error_input
    ours_cls = getattr(kiln.optim, info.optim_cls.__name__)
    params = mine(given.params)
    if params is None:
        params = [kiln.nn.Parameter(kiln.zeros(1, 1))]
    elif isinstance(given.params, list) and isinstance(given.params[0], torch.Tensor):
        same = {id(p): mine(p) for p in given.params}  # a parameter listed twice is one
        params = [same[id(p)] for p in given.params]
    elif isinstance(given.params, list) and isinstance(given.params[0], dict):
        same = {}
        params = [
            {**g, "params": same.setdefault(id(g["params"]), v["params"])}
            for g, v in zip(given.params, params, strict=True)
        ]
    what = error.error_regex

    def attempt() -> None:
        opt = ours_cls(params, **mine(given.kwargs))
        if error.error_on is OptimizerErrorEnum.STEP_ERROR:
            for g in opt.param_groups:
                for p in g["params"]:
                    p.grad = kiln.zeros_like(p)
            opt.step()

    if issubclass(error.error_type, Warning):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            attempt()
        if not any(
            isinstance(w.message, error.error_type) and re.search(what, str(w.message))
            for w in seen
        ):
            return f"no {error.error_type.__name__}: {what}"
        return None
    try:
        attempt()
    except error.error_type as e:
        text = str(e).split("\n")[0]
        return None if re.search(what, text) else f"says {text!r} for {what!r}"
    except Exception as e:
        return f"{type(e).__name__} for {error.error_type.__name__}: {what}"
    return f"accepts what PyTorch refuses: {what}"


def cases(info: Any, quick: bool = False) -> Iterator[Case]:
    """All checks of an entry, by name."""
    inputs = info.optim_inputs_func(device="cpu")
    for given in inputs:
        kw = given.kwargs
        sparse = info.only_supports_sparse_grads or info.supports_sparse
        if sparse and not kw.get("weight_decay"):
            yield f"sparse {given.desc}", lambda kw=kw: sparse_steps(info, kw)
        if info.only_supports_sparse_grads:
            continue
        for dtype in DTYPES:
            if dtype.startswith("complex") and not info.supports_complex:
                continue
            if dtype == "bfloat16" and (info.step_requires_closure or "Tensor" in given.desc):
                continue  # a line search in eight bits goes anywhere
            yield f"{dtype} {given.desc}", lambda kw=kw, d=dtype: steps(info, kw, d)
        yield f"state {given.desc}", lambda kw=kw: travels(info, kw)
        if not quick:
            yield f"captured {given.desc}", lambda kw=kw: captured(info, kw)
        if "differentiable" in info.supported_impls:
            yield f"differentiable {given.desc}", lambda kw=kw: differentiable(info, kw)
    if not info.only_supports_sparse_grads:
        for i, make in enumerate(info.scheduler_inputs):
            yield f"schedule {i}", lambda make=make: schedule(info, make)
    for error in info.optim_error_inputs_func(device="cpu", dtype=torch.float32):
        desc = error.optimizer_error_input.desc
        yield f"error {desc}", lambda error=error: refusal(info, error)


class Decay:
    """A schedule as an object with state of its own."""

    def __init__(self, by: float = 0.9):
        self.by = by

    def __call__(self, epoch: int) -> float:
        return self.by**epoch


SCHEDULES: list[tuple[str, dict[str, Any]]] = [
    ("LambdaLR", {"lr_lambda": lambda e: 0.95**e}), ("LambdaLR", {"lr_lambda": [Decay(), Decay(0.5)]}),
    ("MultiplicativeLR", {"lr_lambda": lambda e: 0.9}),
    ("StepLR", {"step_size": 3}), ("StepLR", {"step_size": 2, "gamma": 0.5}),
    ("MultiStepLR", {"milestones": [2, 5, 5], "gamma": 0.3}),
    ("ConstantLR", {}), ("ConstantLR", {"factor": 0.4, "total_iters": 3}),
    ("LinearLR", {}), ("LinearLR", {"start_factor": 0.25, "end_factor": 0.9, "total_iters": 4}),
    ("ExponentialLR", {"gamma": 0.9}), ("PolynomialLR", {}), ("PolynomialLR", {"total_iters": 8, "power": 2.0}),
    ("CosineAnnealingLR", {"T_max": 5}), ("CosineAnnealingLR", {"T_max": 4, "eta_min": 0.01}),
    ("CosineAnnealingWarmRestarts", {"T_0": 3}),
    ("CosineAnnealingWarmRestarts", {"T_0": 3, "T_mult": 2, "eta_min": 0.001}),
    ("CyclicLR", {"base_lr": 0.01, "max_lr": 0.2, "step_size_up": 4}),
    ("CyclicLR", {"base_lr": [0.01, 0.02], "max_lr": [0.2, 0.3], "step_size_up": 4, "step_size_down": 3,
                  "mode": "triangular2"}),
    ("CyclicLR", {"base_lr": 0.01, "max_lr": 0.2, "step_size_up": 3, "mode": "exp_range", "gamma": 0.98}),
    ("CyclicLR", {"base_lr": 0.01, "max_lr": 0.2, "step_size_up": 3, "scale_fn": Decay(),
                  "cycle_momentum": False}),
    ("OneCycleLR", {"max_lr": 0.5, "total_steps": 30}),
    ("OneCycleLR", {"max_lr": [0.5, 0.2], "epochs": 3, "steps_per_epoch": 10, "three_phase": True,
                    "anneal_strategy": "linear"}),
    ("ReduceLROnPlateau", {"patience": 1}),
    ("ReduceLROnPlateau", {"mode": "max", "factor": 0.5, "patience": 1, "cooldown": 2, "threshold_mode": "abs",
                           "min_lr": [0.01, 0.02]}),
    ("SWALR", {"swa_lr": 0.5}), ("SWALR", {"swa_lr": [0.5, 0.1], "anneal_epochs": 4, "anneal_strategy": "linear"}),
    ("SWALR", {"swa_lr": 0.05, "anneal_epochs": 0}),
    ("SequentialLR", {}), ("ChainedScheduler", {}),
]  # fmt: skip


def scheduler(lib: Any, opt: Any, name: str, options: dict[str, Any]) -> Any:
    s = lib.optim.lr_scheduler
    if name == "SequentialLR":
        parts = [s.ConstantLR(opt, 0.1, 3), s.LinearLR(opt, 0.5, 1.0, 4), s.ExponentialLR(opt, 0.9)]
        return s.SequentialLR(opt, parts, [3, 8])
    if name == "ChainedScheduler":
        return s.ChainedScheduler([s.ConstantLR(opt, 0.1, 3), s.ExponentialLR(opt, 0.9)])
    cls = lib.optim.swa_utils.SWALR if name == "SWALR" else getattr(s, name)
    return cls(opt, **copy.deepcopy(options))


def build_for_rates(lib: Any, base: str, params: list) -> Any:
    extra = {"momentum": 0.9} if base == "SGD" else {}
    groups = [{"params": params[:1]}, {"params": params[1:], "lr": 0.3}]
    return getattr(lib.optim, base)(groups, lr=0.1, **extra)


def rates(name: str, options: dict[str, Any], base: str, resumed: bool = False) -> str | None:
    """Rates and momenta of 24 epochs, and the state; resumed halfway from PyTorch's state."""
    found, states = [], []
    for lib in (torch, kiln):
        r = np.random.default_rng(0)
        params = [lib.nn.Parameter(lib.tensor(r.standard_normal(3))) for _ in range(2)]
        opt = build_for_rates(lib, base, params)
        s = scheduler(lib, opt, name, options)
        seen = []
        for i in range(24):
            if resumed and i == 12:
                state = s.state_dict() if lib is torch else states[0]
                groups = opt.state_dict()
                opt = build_for_rates(lib, base, params)
                s = scheduler(lib, opt, name, options)
                opt.load_state_dict(groups)
                s.load_state_dict(copy.deepcopy(state))
                states.append(state)
            opt.step()
            s.step(abs(i - 6.0)) if name == "ReduceLROnPlateau" else s.step()
            seen.append([(g["lr"], g.get("momentum"), g.get("betas")) for g in opt.param_groups])
        found.append((seen, list(s.get_last_lr())))
        if not resumed:
            states.append(s.state_dict())
    if found[0] != found[1] and not np.allclose(found[0][1], found[1][1], rtol=1e-12):
        return f"rates {found[1]} for {found[0]}"
    for i, (a, b) in enumerate(zip(found[0][0], found[1][0], strict=True)):
        if a != b and not np.allclose([x[0] for x in a], [x[0] for x in b], rtol=1e-12):
            return f"epoch {i}: {b} for {a}"
    theirs, ours = states[0], states[-1]
    if theirs.keys() != ours.keys():
        return f"state differs: {sorted(theirs.keys() ^ ours.keys())}"
    return None


def schedules() -> Iterator[Case]:
    """All checks of schedulers, by name."""
    for name, options in SCHEDULES:
        for base in ("SGD", "Adam"):
            for resumed in (False, True):
                what = f"rates{' resumed' if resumed else ''} {name} {base} {sorted(options)}"
                yield what, lambda n=name, o=options, b=base, r=resumed: rates(n, o, b, r)


def outcome(check: Callable[[], str | None]) -> str | None:
    """What is wrong, if anything."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return check()
    except Exception as e:
        where = traceback.extract_tb(e.__traceback__)[-1]
        return f"{type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''} ({where.name}:{where.lineno})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pattern", nargs="?", default="")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    passed: collections.Counter[str] = collections.Counter()
    total: collections.Counter[str] = collections.Counter()
    good = 0
    if not args.pattern or args.pattern == "schedules":
        for name, check in schedules():
            total["rates"] += 1
            if wrong := outcome(check):
                print(f"{name}: {wrong}")
            else:
                passed["rates"] += 1
    infos = [i for i in optim_db if re.search(args.pattern, i.optim_cls.__name__)]
    for info in infos:
        whole = True
        for name, check in cases(info, args.quick):
            kind = name.split()[0]
            total[kind] += 1
            if wrong := outcome(check):
                whole = False
                print(f"{info.optim_cls.__name__} {name}: {wrong}")
            else:
                passed[kind] += 1
        good += whole
    for kind, n in total.items():
        print(f"{kind}: {passed[kind]}/{n}")
    print(f"{sum(passed.values())}/{sum(total.values())} checks, {good}/{len(infos)} optimizers")
    return 0 if passed == total else 1


if __name__ == "__main__":
    sys.exit(main())
