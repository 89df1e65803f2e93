"""Memory orders: which nodes lie channels-last, so that convolutions and what is around them need no transposes.

The Graph stays as the user wrote it, (N, C, *): a shape says nothing about memory. A node that lies
in memory is row-major unless it is in the set that `channels_last` gives; then its dimension 1 is the
innermost. Loop nests and kernels ask for strides and so read and write either order; where the two
meet, the reader's loads do the transposing and no copy is made for it. What a user sees (inputs,
outputs, updates) and what kernels take as row-major never changes its order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..config import config
from ..errors import KilnValueError
from ..graph.node import Graph, Leaf, Node
from ..shape import contiguous_strides

Strides = Callable[[Node], tuple[int, ...]]
"""The strides, in elements, with which a node lies in memory."""

CONVOLUTIONS = {"convolution": (0,), "conv_input_grad": (0,), "conv_weight_grad": (0, 1)}
"""Convolutions, and which of their arguments have channels as dimension 1, as results of the first two do."""
_MOVES = {"pad", "windows", "windows_grad", "slice", "flip", "expand", "reshape", "cat"}
_FLAG = ("auto", "row_major", "channels_last")


def row_major(n: Node) -> tuple[int, ...]:
    """The strides of a node that lies in the order of its dimensions."""
    return contiguous_strides(n.shape)


def channels_inside(n: Node) -> tuple[int, ...]:
    """The strides of a node that lies channels-last."""
    batch, channels, *rest = n.shape
    outer, *inner, last = contiguous_strides((batch, *rest, channels))
    return (outer, last, *inner)


def channels_last(
    graph: Graph, prefers: Callable[[Node], int], fixed: Iterable[Node]
) -> frozenset[Node]:
    """The nodes that lie channels-last, should they lie in memory.

    `prefers(convolution)` is how much one gains from it, less than 0 where it loses. Nodes that touch
    (elementwise, pooling, statistics, padding, …) share one order: what their convolutions
    prefer in sum. Convolutions of images that were put together of parts of others prefer nothing:
    planes are moved at memory's speed, channels are not. `fixed` nodes stay row-major.
    """
    if config.layout not in _FLAG:
        raise KilnValueError(
            "config", "no such layout", repr(config.layout), f"one of {', '.join(_FLAG)}"
        )
    if config.layout == "row_major":
        return frozenset()
    stays = {*graph.outputs, *fixed}
    nodes = [n for n in graph.nodes() if _spatial(n)]
    can = (n for n in nodes if n not in stays and not isinstance(n.op, Leaf))
    if config.layout == "channels_last":
        return frozenset(can)
    if not any(n.name in CONVOLUTIONS for n in graph.nodes()):
        return frozenset()
    group: dict[Node, Node] = {n: n for n in nodes}

    def leader(n: Node) -> Node:
        while group[n] is not n:
            group[n] = n = group[group[n]]
        return n

    for n in nodes:
        if n.name in _MOVES or getattr(n.op, "family", "") in (
            "elementwise", "select", "cast", "reduction",
        ):  # fmt: skip
            for x in n.inputs:
                if x in group and x.shape[:2] == n.shape[:2]:
                    group[leader(x)] = leader(n)
    gain: dict[Node, int] = {}
    for n in graph.nodes():
        if n.name in CONVOLUTIONS:
            images = [n.args[i] for i in CONVOLUTIONS[n.name]]
            own = 0 if any(map(_gathered, images)) else prefers(n)
            for x in images if n.name == "conv_weight_grad" else [*images, n]:
                if x in group:
                    gain[leader(x)] = gain.get(leader(x), 0) + own
    return frozenset(n for n in can if gain.get(leader(n), 0) > 0)


def _gathered(n: Node) -> bool:
    """Whether images are a reshape of something of more dimensions."""
    return n.name == "reshape" and len(n.args[0].shape) > len(n.shape)


def _spatial(n: Node) -> bool:
    return n.outputs is None and len(n.shape) >= 3
