"""Views: movement that is only index arithmetic, and operands that kernels read where they lie, by strides."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..graph.node import INPUT, ITEM, LITERAL, Node
from ..shape import norm_dims
from . import maps
from .maps import Affine, NotAffine, Split, divide
from .orders import Strides, row_major

VIEWS = {"reshape", "permute", "expand", "slice", "flip", "windows"}
"""Movement that is only index arithmetic."""


def tiles(n: Node) -> bool:
    """Whether the windows of a `windows_grad` lie side by side and cover everything: then it only moves."""
    g, size, kernel, stride, dilation = n.args
    k = len(kernel)
    outs = g.shape[len(g.shape) - 2 * k : len(g.shape) - k]
    return (
        tuple(kernel) == tuple(stride)
        and all(d == 1 or w == 1 for d, w in zip(dilation, kernel, strict=True))
        and all(o * w == s for o, w, s in zip(outs, kernel, size, strict=True))
    )


def is_plain_view(n: Node) -> bool:
    """Whether a node is a part of an input or a result, in any order, with nothing computed on the way."""
    return view_root(n).op in (INPUT, LITERAL, ITEM)


def view_root(n: Node) -> Node:
    """What a chain of views begins with."""
    while n.name in ("permute", "expand", "slice", "reshape"):
        n = n.args[0]
    return n


def through(n: Node, access: Sequence[Affine], dims: Sequence[int]) -> tuple[Affine, ...]:
    """The access of a view node's source; raises Split or NotAffine where a reshape needs it."""
    x = n.args[0]
    zero = maps.constant(len(dims))
    if n.name == "reshape":
        return maps.reshape(access, n.shape, x.shape, dims)
    if n.name == "expand":
        lead = len(n.shape) - len(x.shape)
        return tuple(
            zero if s == 1 and n.shape[lead + i] != 1 else access[lead + i]
            for i, s in enumerate(x.shape)
        )
    if n.name == "permute":
        out = [zero] * len(access)
        for a, d in zip(access, n.args[1], strict=True):
            out[d % len(access)] = a
        return tuple(out)
    if n.name == "slice":
        return tuple(
            a.scaled(st, lo) for a, lo, st in zip(access, n.args[1], n.args[3], strict=True)
        )
    if n.name == "windows_grad":  # windows side by side: each position is (window, tap)
        kernel = n.args[2]
        lead = len(access) - len(kernel)
        pairs = [divide(a, w, dims) for a, w in zip(access[lead:], kernel, strict=True)]
        return (*access[:lead], *(q for q, _ in pairs), *(r for _, r in pairs))
    if n.name == "flip":
        flipped = norm_dims(n.args[1], len(n.shape)) if n.args[1] else ()
        return tuple(
            a.scaled(-1, s - 1) if i in flipped else a
            for i, (a, s) in enumerate(zip(access, n.shape, strict=True))
        )
    assert n.name == "windows"
    _, kernel, stride, dilation = n.args
    k = len(kernel)
    lead = len(x.shape) - k
    out = list(access[:lead])
    for i in range(k):
        out.append(
            access[lead + i].scaled(stride[i]).added(access[lead + k + i].scaled(dilation[i]))
        )
    return tuple(out)


def strided_view(
    n: Node, stored: Callable[[Node], bool], strides: Strides = row_major
) -> tuple[Node, tuple[int, ...], int] | None:
    """A node as strides and an offset on a node that lies in memory; None where it must be copied."""
    dims = tuple(n.shape)
    access = maps.identity(dims, [[i] for i in range(len(dims))])
    x = n
    try:
        while (memory := _same_memory(x, stored, strides)) is None:
            if x.name not in ("reshape", "permute", "expand", "slice", "flip"):
                return None
            access = through(x, access, dims)
            x = x.args[0]
    except (Split, NotAffine):
        return None
    flat = maps.dot(access, strides(x) if x is memory else row_major(x), len(dims))
    return memory, flat.strides, flat.offset


def _same_memory(x: Node, stored: Callable[[Node], bool], strides: Strides) -> Node | None:
    """The node in memory that has a node's elements in the same order."""
    root = x
    while not stored(root):
        if root.name != "reshape":
            return None
        root = root.args[0]
    return root if root is x or strides(root) == row_major(root) else None
