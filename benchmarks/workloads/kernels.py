"""Single kernels: what they are, their inputs and cost, and the function of each in PyTorch's API.

`Kernel.op` is the name by which every framework's file defines it; `options` are its parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

POINTWISE = ("exp", "tanh", "gelu", "softmax", "layer_norm")
CONVOLUTIONS = {  # name -> (batch, channels in, height and width, channels out, kernel, stride, groups)
    "64@56": (32, 64, 56, 64, 3, 1, 1),
    "128@28": (32, 128, 28, 128, 3, 1, 1),
    "256@14": (32, 256, 14, 256, 3, 1, 1),
    "1x1-64-256@56": (32, 64, 56, 256, 1, 1, 1),
    "stride2-128-256@28": (32, 128, 28, 256, 3, 2, 1),
    "depthwise-128@28": (32, 128, 28, 128, 3, 1, 128),
}


@dataclass(frozen=True)
class Kernel:
    """One operation; `flops` and `bytes` are what it can't do without, the latter 0 where arithmetic rules."""

    op: str
    title: str
    inputs: Callable[[Any], tuple[Any, ...]]
    flops: float = 0.0
    bytes: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)
    tolerance: float = 1e-4


def catalog() -> Iterator[tuple[str, Kernel]]:
    """Every kernel by name."""
    yield from _matmuls()
    yield from _convolutions()
    for op in POINTWISE:
        for label, n in (("1M", 1 << 20), ("16M", 1 << 24)):
            yield f"{op}-{label}", Kernel(op, f"{op} on {label}", _rows(n), bytes=8.0 * n)
    n, rows, width = 1 << 16, 50_000, 128
    yield "embedding", Kernel("embedding", f"embedding of {n} rows of {width} among {rows}",
                              _table(rows, width, n), bytes=8.0 * n * width)  # fmt: skip
    n = 10_000_000
    # reads parameter, gradient and both moments, writes all but the gradient
    yield "adam-10M", Kernel("adam", "Adam on 10M parameters", _normal((n,)), bytes=28.0 * n)


def _matmuls() -> Iterator[tuple[str, Kernel]]:
    for n in (64, 128, 256, 512, 1024, 2048):
        for kind, tolerance in (("fp32", 1e-4), ("bf16", 1e-2), ("int8", 0.0)):
            yield f"matmul-{n}-{kind}", Kernel(
                "matmul", f"matmul {n} {kind}", _matrices(n, kind), 2.0 * n**3, options={"kind": kind},
                tolerance=tolerance,
            )  # fmt: skip


def _convolutions() -> Iterator[tuple[str, Kernel]]:
    for label, (b, c, size, o, k, stride, groups) in CONVOLUTIONS.items():
        out = size // stride
        x, w, y = (b, c, size, size), (o, c // groups, k, k), (b, o, out, out)
        flops = 2.0 * math.prod(y) * math.prod(w[1:])
        options = {"stride": stride, "padding": k // 2, "groups": groups, "x": x, "w": w}
        for way, shapes in {"forward": (x, w), "data": (w, y), "weight": (x, y)}.items():
            # Winograd's transforms cost digits: see docs on F(4x4)
            yield f"conv-{label}-{way}", Kernel(
                f"conv_{way}", f"conv {label}, {'backward-' * (way != 'forward')}{way}", _normal(*shapes),
                flops, options=options, tolerance=1e-3,
            )  # fmt: skip


def _normal(*shapes: tuple[int, ...]) -> Callable[[Any], tuple[Any, ...]]:
    return lambda rng: tuple(rng.standard_normal(s, "float32") for s in shapes)


def _rows(n: int) -> Callable[[Any], tuple[Any, ...]]:
    return _normal((n // 1024, 1024))


def _matrices(n: int, kind: str) -> Callable[[Any], tuple[Any, ...]]:
    if kind == "int8":
        return lambda rng: tuple(rng.integers(-8, 8, (n, n)).astype("int8") for _ in range(2))
    return _normal((n, n), (n, n))


def _table(rows: int, width: int, n: int) -> Callable[[Any], tuple[Any, ...]]:
    return lambda rng: (rng.integers(0, rows, n), rng.standard_normal((rows, width), "float32"))


def net(lib: Any, kernel: Kernel) -> Any:
    """The module that holds what the kernel changes; without parameters for all but Adam."""

    class Holder(lib.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            if kernel.op == "adam":
                self.bias = lib.nn.Parameter(lib.zeros(10_000_000))

    return Holder()


def function(lib: Any, kernel: Kernel, holder: Any) -> Callable[..., Any]:
    """The kernel as a function of Tensors of kiln or torch."""
    f, o = lib.nn.functional, kernel.options
    if kernel.op == "matmul":
        return _matmul(lib, o["kind"])
    if kernel.op.startswith("conv"):
        return _convolution(lib, kernel.op, o)
    if kernel.op == "softmax":
        return lambda x: f.softmax(x, dim=-1)
    if kernel.op == "layer_norm":
        return lambda x: f.layer_norm(x, x.shape[-1:])
    if kernel.op == "adam":
        return _adam_step(lib, holder.bias)
    return {"exp": lib.exp, "tanh": lib.tanh, "gelu": f.gelu, "embedding": f.embedding}[kernel.op]


def _matmul(lib: Any, kind: str) -> Callable[..., Any]:
    if kind == "int8":
        int_mm = lib._int_mm
        return lambda a, b: int_mm(a, b)
    return lambda a, b: lib.mm(a, b)


def _convolution(lib: Any, op: str, o: dict[str, Any]) -> Callable[..., Any]:
    conv2d = lib.nn.functional.conv2d
    place = {k: o[k] for k in ("stride", "padding", "groups")}
    if op == "conv_forward":
        return lambda x, w: conv2d(x, w, **place)
    if lib.__name__ == "torch":  # its eager autograd would run the forward pass too
        from torch.nn import grad

        if op == "conv_data":
            return lambda w, y: grad.conv2d_input(o["x"], w, y, **place)
        return lambda x, y: grad.conv2d_weight(x, o["w"], y, **place)

    def gradient(of: Any, x: Any, w: Any, y: Any) -> Any:
        return lib.autograd.grad(conv2d(x, w, **place), of, y)[0]

    def data(w: Any, y: Any) -> Any:
        x = lib.zeros(o["x"], requires_grad=True)
        return gradient(x, x, w, y)

    def weight(x: Any, y: Any) -> Any:
        w = lib.zeros(o["w"], requires_grad=True)
        return gradient(w, x, w, y)

    return data if op == "conv_data" else weight


def _adam_step(lib: Any, p: Any) -> Callable[..., Any]:
    optimizer = lib.optim.Adam([p], lr=1e-4)

    def step(g: Any) -> Any:
        p.grad = g
        optimizer.step()
        return p.detach()

    return step
