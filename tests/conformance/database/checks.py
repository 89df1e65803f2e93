"""All that is checked of an entry: dtypes, gradients, other forms of the call, calls that must fail."""

from __future__ import annotations

import contextlib
import io
import random
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .calls import FAILED, MISSING, PASSED, Call, Outcome, seed, told
from .compare import Comparison
from .crossing import RAISED, Crossing, Missing, Target
from .entries import public_path

DTYPES = ("float32", "float64", "int64", "bool", "complex64", "bfloat16")
SMOOTH = ("float32", "float64", "complex64", "complex128")  # whose gradients are compared
OTHERS = ("complex128", "float16", "int32", "uint8")  # where an entry takes none of those asked for


@dataclass
class Settings:
    """How much of each entry is checked."""

    dtypes: tuple[str, ...] = DTYPES
    samples: int = 24  # in each dtype; 0 for all
    forms: int = 4  # samples of methods, in-place forms, …
    second: int = 2  # samples of second gradients
    errors: bool = True


def examine(entry: Any, target: Target, settings: Settings) -> Iterator[Outcome]:
    """The outcomes of all calls of an entry."""
    path = public_path(entry)
    try:
        ours = target.find(path) if path else target.function(entry.op)
    except Missing as e:
        yield Outcome("name", MISSING, str(e))
        return
    taken = {str(d).removeprefix("torch.") for d in entry.supported_dtypes("cpu")}
    dtypes = [d for d in settings.dtypes if d in taken] or [d for d in OTHERS if d in taken][:1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for dtype in dtypes:
            smooth = differentiable(entry, dtype)
            for i, sample in enumerate(draw(entry, dtype, settings.samples)):
                second = dtype == "float64" and i < settings.second and entry.supports_gradgrad
                call = Call(entry, sample, entry.op, ours, target)
                yield from placed(call.outcomes(f"values {dtype}", smooth, second), i, sample)
        if dtypes:
            dtype = "float64" if "float64" in dtypes else dtypes[0]
            for form, theirs, ours_too in forms(entry, ours, target):
                smooth = differentiable(entry, dtype) and form != "out="
                for i, sample in enumerate(draw(entry, dtype, settings.forms)):
                    if form == "in-place" and sample.broadcasts_input:
                        continue
                    call = Call(entry, sample, theirs, ours_too, target)
                    yield from placed(call.outcomes(form, smooth), i, sample)
        if settings.errors and entry.supports_out and public_path(entry):
            yield from other_outs(entry, ours, target, "float32" if "float32" in taken else dtype)
        if settings.errors and entry.error_inputs_func is not None:
            yield from refusals(entry, ours, target)


def placed(outcomes: Iterator[Outcome], i: int, sample: Any) -> Iterator[Outcome]:
    """Outcomes with the sample told beside what differs."""
    for outcome in outcomes:
        if outcome.kind == FAILED:
            outcome.message += f"  <- sample {i}: {summary(sample)}"
        yield outcome


def differentiable(entry: Any, dtype: str) -> bool:
    """Whether gradients are compared."""
    able = entry.supports_autograd and dtype in SMOOTH
    return able and getattr(torch, dtype) in entry.supported_backward_dtypes("cpu")


def draw(entry: Any, dtype: str, count: int) -> list[Any]:
    """Samples of an entry, the same ones each time; some `count`, evenly taken, where there are more."""
    seed(0)
    np.random.seed(0)
    random.seed(0)
    smooth = differentiable(entry, dtype)
    with contextlib.redirect_stdout(io.StringIO()):
        samples = list(
            entry.sample_inputs("cpu", getattr(torch, dtype), requires_grad=smooth, set_seed=False)
        )
    if not 0 < count < len(samples):
        return samples
    return [samples[i * (len(samples) - 1) // max(1, count - 1)] for i in range(count)]


def forms(entry: Any, ours: Callable, target: Target) -> Iterator[tuple[str, Callable, Callable]]:
    """Other ways to make the entry's call: the form's name, PyTorch's function, Kiln's."""
    if name := method_name(entry.method_variant):
        yield "method", *methods(name, target)
    if name := method_name(entry.inplace_variant):
        yield "in-place", *methods(name, target, on_copy=True)
    if entry.operator_variant is not None:
        yield "operator", entry.operator_variant, entry.operator_variant
    if entry.supports_out and public_path(entry):
        yield "out=", into(entry.op, torch), into(ours, target.module)
    for alias in entry.aliases:
        try:
            yield "alias", alias.op, target.find(alias.name.removeprefix("torch."))
        except Missing:
            yield "alias", alias.op, absent(alias.name)


def method_name(variant: Any) -> str:
    """The name of a method of tensors; empty where an entry has none."""
    name = getattr(variant, "__name__", "")
    return name if hasattr(torch.Tensor, name) else ""


def methods(name: str, target: Target, on_copy: bool = False) -> tuple[Callable, Callable]:
    """A method of both tensors as functions; one `on_copy` gives the copy that it has changed."""

    def theirs(x: Any, *args: Any, **kwargs: Any) -> Any:
        if not on_copy:
            return getattr(x, name)(*args, **kwargs)
        x = x.clone()
        getattr(x, name)(*args, **kwargs)
        return x

    there = hasattr(target.module.Tensor, name)
    return theirs, theirs if there else absent(f"Tensor.{name}")


def into(fn: Callable, module: Any) -> Callable:
    """`fn` as a function that writes its results to other tensors by `out=`, and gives those."""

    def call(*args: Any, **kwargs: Any) -> Any:
        with module.no_grad():
            like = fn(*args, **kwargs)
            out = each(lambda t: module.full(tuple(t.shape), 7, dtype=t.dtype), like)
            fn(*args, **kwargs, out=out)
        return out

    return call


def other_outs(entry: Any, ours: Callable, target: Target, dtype: str) -> Iterator[Outcome]:
    """What becomes of `out=` that is of another dtype, lies across the input or requires grad."""
    for sample in draw(entry, dtype, 3):
        if not isinstance(sample.input, torch.Tensor) or sample.input.layout is not torch.strided:
            continue
        sample = sample.transform(lambda t: t.detach().clone() if torch.is_tensor(t) else t)
        try:
            like = entry.op(sample.input, *sample.args, **sample.kwargs)
        except Exception:
            continue
        for kind, out, x in unusual(like, sample.input, entry.supports_autograd):
            crossing = Crossing(target)
            try:
                args, kwargs = crossing((x, *sample.args)), crossing(sample.kwargs | {"out": out})
            except Missing:
                continue
            theirs = raised(entry.op, x, *sample.args, out=out, **sample.kwargs)
            mine = raised(ours, *args, **kwargs)
            message = ""
            if theirs is None and mine is None:
                if kind not in ("the input", "across"):  # PyTorch may write there as it reads
                    same = Comparison(entry, target).differs
                    wide = each(lambda t: t.float() if t.dtype is torch.float64 else t, out)
                    message = same(wide, each(lambda t: t.float() if t.dtype.name == "float64" else t, crossing(out)))  # fmt: skip
            elif theirs is None or not isinstance(mine, type(theirs)):
                told_both = [told(e) if e else "nothing raised" for e in (mine, theirs)]
                message = " where in PyTorch ".join(told_both)
            message = message and f"{kind}: {message}  <- {summary(sample)}"
            yield Outcome("other out=", FAILED if message else PASSED, message)


def unusual(like: Any, x: torch.Tensor, smooth: bool) -> Iterator[tuple[str, Any, torch.Tensor]]:
    """Outputs for a result like `like` that PyTorch may refuse: what is unusual, the output, the input."""
    results = like if isinstance(like, tuple | list) else [like]
    if not results or not all(map(torch.is_tensor, results)):
        return

    def made(kind: torch.dtype | None = None) -> Any:
        return each(lambda t: torch.zeros(t.shape, dtype=kind or t.dtype), like)

    for kind in (torch.float64, torch.int64, torch.bool, torch.complex64):
        if any(t.dtype is not kind for t in results):
            yield str(kind), made(kind), x
    if torch.is_tensor(like) and like.dtype is x.dtype and like.numel() > 1:
        if like.shape == x.shape:
            y = x.clone()
            yield "the input", y, y
        both = torch.zeros(max(x.numel(), like.numel()) + 1, dtype=x.dtype)
        y = both[: x.numel()].view(x.shape).copy_(x)
        yield "across", both[1 : like.numel() + 1].view(like.shape), y
    if smooth and results[0].is_floating_point():
        yield "grad", each(lambda t: t.requires_grad_(t.is_floating_point()), made()), x


def raised(fn: Callable, *args: Any, **kwargs: Any) -> Exception | None:
    """What a call raises."""
    try:
        fn(*args, **kwargs)
    except Exception as e:
        return e
    return None


def each(fn: Callable, x: Any) -> Any:
    return tuple(fn(y) for y in x) if isinstance(x, tuple | list) else fn(x)


def absent(name: str) -> Callable:
    """Stands for a function that Kiln hasn't got."""

    def call(*args: Any, **kwargs: Any) -> Any:
        raise Missing(name)

    return call


def refusals(entry: Any, ours: Callable, target: Target) -> Iterator[Outcome]:
    """What becomes of calls that PyTorch refuses: the class of the error, and its text in three lines."""
    public = public_path(entry)
    for bad in entry.error_inputs("cpu", set_seed=False):
        s = bad.sample_input
        crossing = Crossing(target)
        crossed: Any = None
        with contextlib.suppress(Exception):  # before PyTorch changes what it is given
            crossed = crossing((s.input, *s.args)), crossing(s.kwargs)
        try:
            entry.op(s.input, *s.args, **s.kwargs)
            continue  # an error on other devices
        except Exception as e:
            theirs = e
        try:
            args, kwargs = crossed or (crossing((s.input, *s.args)), crossing(s.kwargs))
            got = ours(*args, **kwargs)
        except Missing as e:
            yield Outcome("errors", MISSING, str(e))
        except MemoryError:
            raise
        except Exception as e:
            if not public and RAISED not in getattr(e, "__notes__", ()):
                continue  # PyTorch refused before it asked
            right = isinstance(e, (bad.error_type, type(theirs)))
            message = f"{told(e)} where PyTorch raises {told(theirs)}  <- {summary(s)}"
            yield Outcome("errors", PASSED if right else FAILED, "" if right else message)
            plain = hasattr(e, "received")
            yield Outcome("error texts", PASSED if plain else FAILED, "" if plain else message)
        else:
            seen = type(got).__name__
            message = f"{seen} where PyTorch raises {told(theirs)}  <- {summary(s)}"
            yield Outcome("errors", FAILED, message)


def summary(sample: Any) -> str:
    """A sample in a line."""
    text = sample.summary().removeprefix("SampleInput").replace(', device="cpu"', "")
    return text.replace(", broadcasts_input=False, name=''", "")[:240]
