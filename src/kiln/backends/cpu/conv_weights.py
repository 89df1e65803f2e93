"""Phases that lay the weights of a convolution out in the workspace."""

from __future__ import annotations

from math import prod

from kiln.backends.cpu.conv_shape import ARG_OTHER, Weights
from kiln.backends.cpu.kernel import Kernel
from kiln.backends.cpu.microkernel import ARG_WORKSPACE
from kiln.backends.cpu.text import COMPUTE, ITEMSIZE, Text


def emit_copy(weights: Weights, dtype: str, symbol: str, offset: int = 0) -> Kernel | None:
    """The phase that copies the weights to ``offset`` bytes of the workspace, where they must be."""
    if not weights.source:
        return None
    b, size, element = Text(), ITEMSIZE[dtype], COMPUTE[dtype]
    with b.function(symbol, [("ptr", "args"), ("i64", "task"), ("i64", "ntasks")]):

        def axis(level: int, src: str, dst: str) -> None:
            if level == len(weights.source):
                b.emit(f"store {element} {b.op(f'load {element}, ptr {src}')}, ptr {dst}")
                return
            count, stride = weights.source[level]
            inner = prod(n for n, _ in weights.source[level + 1 :])
            with b.loop(0, count) as loop:
                axis(
                    level + 1,
                    b.at(src, b.mul(loop.index, stride), size),
                    b.at(dst, b.mul(loop.index, inner), size),
                )

        axis(0, b.argument("%args", ARG_OTHER), b.at(b.argument("%args", ARG_WORKSPACE), offset))
    return Kernel(b.module(), symbol)
