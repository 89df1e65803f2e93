"""PyTorch's module database against Kiln: `python -m tests.conformance.modules [PATTERN]`.

PyTorch describes its modules for its own tests: 114 entries that give arguments of constructors and of
forward, and calls that must fail. Each module is built in PyTorch and in Kiln here, in training and evaluation;
state dicts go both ways, and outputs, gradients, buffers and texts are compared. Prints what differs, then
counts; `--document` writes them to `docs/modules.md`. A selection is part of the suite (`test_module_database.py`).
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch.nn.modules.lazy import LazyModuleMixin
from torch.testing._internal.common_modules import module_db
from torch.testing._internal.common_nn import (
    criterion_tests,
    get_new_module_tests,
    module_tests,
)

import kiln

from .database.compare import Comparison, tensors
from .database.crossing import Crossing, Target, mapped

DTYPES = ("float32", "float64")
CALLS = {m.name.removeprefix("nn."): m for m in module_db}


class ModuleCrossing(Crossing):
    """The way of arguments among which are modules."""

    def __call__(self, x: Any) -> Any:
        if isinstance(x, torch.nn.Module):
            args, kwargs = x.__dict__["_made_of"]
            twin = self.target.find(f"nn.{type(x).__name__}")(*self(args), **self(kwargs))
            return load(twin, x)
        return super().__call__(x)


@contextmanager
def recorded() -> Iterator[None]:
    """Modules of PyTorch that are made here remember what they were made of."""

    def new(cls: type, *args: Any, **kwargs: Any) -> Any:
        self = object.__new__(cls)
        self.__dict__["_made_of"] = args, kwargs
        return self

    torch.nn.Module.__new__ = new  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:  # taken away it would leave a class that refuses arguments
        torch.nn.Module.__new__ = lambda cls, *_, **__: object.__new__(cls)  # type: ignore


def load(ours: Any, theirs: torch.nn.Module) -> Any:
    """Give a module of Kiln the state of PyTorch's."""
    state = {k: Crossing(TARGET)(v) for k, v in theirs.state_dict().items()}
    ours.load_state_dict(state)
    return ours.train(theirs.training)


TARGET = Target(kiln)


def cases(name: str, dtype: str, training: bool) -> Iterator[tuple[tuple, tuple]]:
    """(args, kwargs) of the constructor, and of forward."""
    entry = CALLS[name]
    torch.manual_seed(0)
    drawn = entry.module_inputs_func(
        entry, device="cpu", dtype=getattr(torch, dtype), requires_grad=True, training=training
    )
    for case in drawn:
        if case.forward_input is not None:
            made, given = case.constructor_input, case.forward_input
            yield (made.args, made.kwargs), (given.args, given.kwargs)


def legacy() -> Iterator[tuple[str, tuple, tuple]]:
    """Name, (args, kwargs) of the constructor and of forward, of PyTorch's older list of modules."""

    def drawn(case: dict, what: str) -> tuple:
        if f"{what}_fn" in case:
            x = case[f"{what}_fn"]()
        elif f"{what}_size" in case:
            size = case[f"{what}_size"]
            nested = size and isinstance(size[0], tuple | list)
            x = tuple(map(torch.randn, size)) if nested else torch.randn(size)
        else:
            return ()
        return x if isinstance(x, tuple) else (x,)

    for case in (*module_tests, *get_new_module_tests(), *criterion_tests):
        name = case.get("module_name")
        if name is None or not hasattr(torch.nn, name):
            continue
        torch.manual_seed(0)
        make = case.get("constructor_args_fn")
        args = make() if make else case.get("constructor_args", ())
        inputs = [x.requires_grad_() if x.is_floating_point() else x for x in drawn(case, "input")]
        if inputs:
            yield name, (args, {}), ((*inputs, *drawn(case, "target")), {})


def compared(name: str, made: tuple, given: tuple, dtype: str, training: bool) -> Iterator[tuple]:
    """(aspect, what differs or "") of one module, in order; ends where nothing more can be compared."""
    crossing = ModuleCrossing(TARGET)
    torch.manual_seed(0)
    theirs = getattr(torch.nn, name)(*made[0], **made[1]).to(getattr(torch, dtype)).train(training)
    ours = TARGET.find(f"nn.{name}")(*crossing(made[0]), **crossing(made[1]))
    ours = ours.to(getattr(kiln, dtype)).train(training)
    inputs = (crossing(given[0]), crossing(given[1]))
    if issubclass(type(theirs), LazyModuleMixin):
        theirs(*given[0], **given[1])
        ours(*inputs[0], **inputs[1])
        theirs, ours = theirs.to(getattr(torch, dtype)), ours.to(getattr(kiln, dtype))
    yield "state dicts", state_differs(ours, theirs)
    same = repr(ours).replace("kiln.Size", "torch.Size") == repr(theirs)
    yield "texts", "" if same else f"{ours!r} where PyTorch has {theirs!r}"
    compare = Comparison(SimpleNamespace(name=name), TARGET).differs
    before = torch.get_rng_state()
    want = theirs(*given[0], **given[1])
    drawn = not torch.equal(before, torch.get_rng_state())
    got = ours(*inputs[0], **inputs[1])
    yield f"values {dtype}", compare(want, got, blind=drawn)
    if drawn:
        return
    state = (dict(theirs.named_buffers()), dict(ours.named_buffers()))
    yield "buffers", compare(list(state[0].values()), list(state[1].values()))
    smooth = [i for i, t in enumerate(tensors(want)) if t.requires_grad]
    if not smooth:
        return
    outs, our_outs = tensors(want), tensors(got, TARGET.is_tensor)
    leaves = [t for t in tensors((*given[0], given[1])) if t.requires_grad]
    leaves = list({id(t): t for t in leaves}.values())
    names = dict(theirs.named_parameters())
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(tuple(outs[i].shape)) for i in smooth]
    seeds = [torch.tensor(w).to(outs[i].dtype) for i, w in zip(smooth, weights, strict=True)]
    grads = torch.autograd.grad(
        [outs[i] for i in smooth], [*leaves, *names.values()], seeds, allow_unused=True
    )
    mine = dict(ours.named_parameters())
    our_leaves = [crossing.tensors[id(t)][1] for t in leaves]
    our_grads = kiln.autograd.grad(
        [our_outs[i] for i in smooth], [*our_leaves, *(mine[n] for n in names)], crossing(seeds),
        allow_unused=True,
    )  # fmt: skip
    for a, b, of in zip(grads, our_grads, [*map(str, range(len(leaves))), *names], strict=True):
        if a is None or b is None:
            differs = (
                "" if (a is None or not a.any()) and (b is None or not b.any()) else f"{b}, not {a}"
            )
        else:
            differs = compare(a, b, f"gradient of {of}")
        yield f"gradients {dtype}", differs


def state_differs(ours: Any, theirs: torch.nn.Module) -> str:
    """Empty where state dicts have the same names, shapes and dtypes, and go both ways."""

    def kinds(module: Any) -> list[tuple]:
        state = module.state_dict()
        return [(k, tuple(v.shape), str(v.dtype).rpartition(".")[2]) for k, v in state.items()
                if hasattr(v, "shape")]  # fmt: skip

    mine, due = kinds(ours), kinds(theirs)
    if mine != due:
        return f"{mine} where PyTorch has {due}"
    load(ours, theirs)
    back = {k: torch.from_numpy(np.array(v.numpy())) for k, v in ours.state_dict().items()}
    kept = {k: v.clone() for k, v in theirs.state_dict().items()}
    theirs.load_state_dict(back)
    same = (torch.equal(v, kept[k]) for k, v in theirs.state_dict().items())
    return "" if all(same) else "the state dict that came back is another"


def refusals(name: str) -> Iterator[tuple]:
    """Calls that must fail: (aspect, what differs or "")."""
    entry = CALLS[name]
    if entry.module_error_inputs_func is None:
        return
    for bad in entry.module_error_inputs_func(
        entry, device="cpu", dtype=torch.float32, requires_grad=False, training=True
    ):
        crossing, case = ModuleCrossing(TARGET), bad.module_error_input
        made, given = case.constructor_input, case.forward_input
        try:
            module = TARGET.find(f"nn.{name}")(*crossing(made.args), **crossing(made.kwargs))
            if given is not None:
                module(*crossing(given.args), **crossing(given.kwargs))
            yield "errors", f"no error where PyTorch raises {bad.error_type.__name__}"
        except Exception as e:
            right = isinstance(e, bad.error_type)
            yield "errors", "" if right else f"{e!r} where PyTorch raises {bad.error_type.__name__}"


def examine(
    name: str, dtypes: tuple[str, ...] = DTYPES, most: int | None = None
) -> Iterator[tuple[str, str]]:
    """(aspect, what differs or "") of all that is compared of a module; of `most` cases of each kind."""
    with recorded(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for dtype in dtypes:
            for training in (True, False):
                for made, given in islice(cases(name, dtype, training), most):
                    yield from guarded(compared(name, made, given, dtype, training), made)
        yield from guarded(refusals(name), "calls that must fail")


def guarded(outcomes: Iterator[tuple], what: Any) -> Iterator[tuple[str, str]]:
    """Outcomes with what they are about beside what differs; an exception is one more."""
    try:
        for aspect, differs in outcomes:
            yield aspect, f"{differs}  <- {what}"[:600] if differs else ""
    except Exception as e:
        yield "calls", f"{type(e).__name__}: {e}  <- {what}"[:600]


def old_cases(pattern: str) -> Iterator[tuple[str, Iterator]]:
    """The older list: name and outcomes."""
    for name, made, given in legacy():
        if pattern not in name:
            continue
        for training in (True, False):
            inputs = mapped(lambda x: x.detach().requires_grad_(x.requires_grad) if isinstance(x, torch.Tensor) else x, given)  # fmt: skip
            yield name, guarded(compared(name, made, inputs, "float32", training), made)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.modules")
    parser.add_argument("pattern", nargs="?", default="", help="part of the modules' names")
    parser.add_argument("--document", type=Path, help="write the counts there")
    args = parser.parse_args()
    counts: dict[str, Counter] = {}
    failed: dict[str, set[str]] = {"the database": set(), "the older list": set()}
    run: dict[str, set[str]] = {k: set() for k in failed}

    def take(which: str, name: str, outcomes: Iterator) -> None:
        run[which].add(name)
        for aspect, differs in outcomes:
            counts.setdefault(aspect, Counter())["differ" if differs else "agree"] += 1
            if differs:
                if name not in failed[which]:
                    print(f"{name}: {aspect}: {differs}", flush=True)
                failed[which].add(name)

    torch.set_num_threads(1)
    for name in CALLS:
        if args.pattern in name:
            take("the database", name, examine(name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, outcomes in old_cases(args.pattern):
            take("the older list", name, outcomes)
    rows = [f"| {a} | {c['agree']:,} | {c.total():,} |" for a, c in sorted(counts.items())]
    whole = {k: f"{len(run[k]) - len(failed[k])} of {len(run[k])}" for k in run}
    text = (
        "# PyTorch's modules in Kiln\n\n"
        f"PyTorch {torch.__version__.split('+')[0]} ships a database of its modules, and an older list of cases, with which "
        "it tests itself. Each module is built in PyTorch and in Kiln, in training and evaluation, in float32 and float64; its "
        "state dict goes to Kiln and back, and what it prints, its outputs, buffers and gradients are compared, as are the calls "
        f"that must fail. **{whole['the database']} modules of the database agree in all of it**, and "
        f"{whole['the older list']} of the older list. Random modules are held to shapes and dtypes.\n\n"
        "This page is generated: `python -m tests.conformance.modules --document docs/modules.md`.\n\n"
        "| | agree | of |\n| --- | --- | --- |\n" + "\n".join(rows) + "\n"
    )  # fmt: skip
    if bad := sorted({n for names in failed.values() for n in names}):
        text += "\nWhat differs: " + ", ".join(f"`{n}`" for n in bad) + ".\n"
    if args.document:
        args.document.write_text(text)
    print(text)
    return int(any(failed.values()))


if __name__ == "__main__":
    sys.exit(main())
