"""PyTorch's optimizer database held against Kiln: `python -m tests.conformance.optimizers [PATTERN]`.

Each entry's inputs are run beside PyTorch from the same parameters and gradients: ten steps in several
dtypes, sparse gradients, captured steps, schedules, gradients through a step, state dicts in files both
ways, and the entry's error inputs. `--quick` leaves out what compiles.
"""

from __future__ import annotations

import argparse
import collections
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
    return 0 if good == len(infos) else 1


if __name__ == "__main__":
    sys.exit(main())
