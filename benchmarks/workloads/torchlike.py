"""Kiln and PyTorch: the same definitions, run by `kiln.compile`, eagerly, or by `torch.compile`."""

from __future__ import annotations

import functools
import importlib
import types
from collections.abc import Callable
from typing import Any

from .catalog import Workload
from .framework import Missing, Prepared


def _library(kind: str) -> Any:
    return importlib.import_module("kiln" if kind == "kiln" else "torch")


def load(kind: str, threads: int) -> None:
    """Import the library, set its threads."""
    lib = _library(kind)
    lib.set_num_threads(threads)
    if kind == "torch-tuned":
        _linear_in_onednn(lib)


def prepare(
    kind: str, workload: Workload, weights: Any, batches: list[Any], threads: int
) -> Prepared:
    """The workload's step from the weights given."""
    lib = _library(kind)
    try:
        net = workload.net(lib)
        with lib.no_grad():
            for name, p in net.named_parameters():
                p.copy_(lib.from_numpy(weights[name]))
        tensors = [tuple(lib.from_numpy(a) for a in batch) for batch in batches]
        if kind == "torch-tuned":
            net = net.to(memory_format=lib.channels_last)
            tensors = [tuple(_channels_last(lib, t) for t in batch) for batch in tensors]
        call = STEPS.get(kind, _plain)(lib, workload, net)
    except AttributeError as e:
        if isinstance(e.obj, types.ModuleType):
            raise Missing(f"{e.obj.__name__}.{e.name}") from None
        raise
    if workload.name.endswith("bf16"):
        tensors = [tuple(t.to(lib.bfloat16) for t in batch) for batch in tensors]
    if kind == "torch-tuned" and workload.name.startswith("matmul") and "fp32" in workload.name:
        linear = lib.nn.functional.linear
        call = lambda a, b: linear(a, b.t())  # noqa: E731
    if kind == "kiln":
        call = lib.compile(call)

    def read(result: Any) -> list[Any]:
        r = result.detach()
        return [r.float().numpy() if workload.name.endswith("bf16") else r.numpy()]

    return Prepared(call, tensors, read)


def _channels_last(lib: Any, t: Any) -> Any:
    return t.contiguous(memory_format=lib.channels_last) if t.dim() == 4 else t


class _Variant:
    """torch, its optimizers made otherwise: `change(optimizer class, arguments)`."""

    def __init__(self, torch: Any, change: Callable[..., Any]):
        self.torch, self.optim = torch, types.SimpleNamespace()
        for name in ("SGD", "Adam", "AdamW"):
            setattr(self.optim, name, functools.partial(change, getattr(torch.optim, name)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.torch, name)


def _tuned(torch: Any, workload: Workload, net: Any) -> Callable[..., Any]:
    """The step with optimizers that update all parameters in one kernel."""

    def fused(kind: Any, *args: Any, **options: Any) -> Any:
        return kind(*args, fused=True, **options)

    return workload.step(_Variant(torch, fused), net)


def _inductor(torch: Any, workload: Workload, net: Any) -> Callable[..., Any]:
    """The step as `torch.compile` runs it: forward and backward a graph each, and the optimizer."""
    if workload.family == "inference":
        return torch.compile(workload.step(torch, net))

    def compiled(kind: Any, *args: Any, **options: Any) -> Any:
        optimizer = kind(*args, **options)
        optimizer.step = torch.compile(optimizer.step)
        return optimizer

    step = workload.step(_Variant(torch, compiled), net)
    if workload.family == "kernel":
        return step if "adam" in workload.name else torch.compile(step)
    for part in (net.generator, net.judge) if workload.name == "dcgan" else (net,):
        part.compile()
    return step


def _plain(lib: Any, workload: Workload, net: Any) -> Callable[..., Any]:
    return workload.step(lib, net)


STEPS = {"torch-tuned": _tuned, "torch-compile": _inductor}


def _linear_in_onednn(torch: Any) -> None:
    """Send `linear` to oneDNN, which on AMD's processors is about twice as fast as MKL.

    The op is the one that torch.compile uses for inference; its gradient is given here.
    """
    onednn = torch.ops.mkldnn._linear_pointwise
    plain = torch.nn.functional.linear

    def times(a: Any, b: Any, bias: Any = None) -> Any:
        return onednn(a, b, bias, "none", [], "")  # a @ b.T + bias

    class Linear(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any, w: Any, bias: Any) -> Any:
            ctx.save_for_backward(x, w)
            ctx.biased = bias is not None
            return times(x, w, bias)

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            (x, w), g = ctx.saved_tensors, grads[0]
            rows, grows = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
            needs = ctx.needs_input_grad
            return (
                times(g, w.t()) if needs[0] else None,
                times(grows.t(), rows.t()) if needs[1] else None,
                grows.sum(0) if ctx.biased and needs[2] else None,
            )

    def linear(input: Any, weight: Any, bias: Any = None) -> Any:
        fits = input.dim() > 1 and input.dtype == torch.float32
        return Linear.apply(input, weight, bias) if fits else plain(input, weight, bias)

    torch.nn.functional.linear = linear
