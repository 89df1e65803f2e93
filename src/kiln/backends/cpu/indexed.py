"""Scatters, scans and sorts of a Graph as kernels."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from ... import dtypes as dt
from ...compile import loopnest as ln
from ...compile import maps
from ...compile.regions import SCATTERS, Region, Unfusable, fusable, gathered_dims, ln_dtype
from ...graph.node import ITEM, Node, make
from ...shape import contiguous_strides, norm_dim
from . import scan, scatter, sort
from .contract import WORKSPACE

if TYPE_CHECKING:
    from .lower import Lowering


def lowers(n: Node) -> bool:
    """Whether a node is a scatter, scan or sort that has a kernel here; empty ones are left to the reference."""
    if n.name not in SCATTERS and n.name not in ("cumsum", "cumprod", "sort", "topk"):
        return False
    x = n.args[0]
    if (
        not x.shape
        or any(0 in y.shape for y in n.inputs)
        or any(ln_dtype(y.dtype) is None for y in n.inputs)
    ):
        return False
    if n.name in ("sort", "topk"):
        dim = n.arg("dim")
        return norm_dim(dim, len(x.shape)) == len(x.shape) - 1
    if n.name in ("cumsum", "cumprod"):
        return n.dtype in (dt.float32, dt.float64, dt.int64)
    if n.name == "index_put_op":
        return bool(n.args[2]) and 0 not in n.args[1].shape
    return n.name not in ("scatter_op", "scatter_add") or isinstance(n.args[3], Node | int | float)


def emit(state: Lowering, n: Node) -> None:
    """Append the launches of such a node."""
    if n.name in ("cumsum", "cumprod"):
        _scan(state, n)
    elif n.name in ("sort", "topk"):
        _sort(state, n)
    else:
        _scatter(state, n)


def _stored(state: Lowering, n: Node) -> Node:
    if not state.stored(n):
        raise Unfusable(n)
    return n


def _scan(state: Lowering, n: Node) -> None:
    from .lower import Launch

    x = _stored(state, n.args[0])
    d = norm_dim(n.args[1], len(x.shape))
    source, out = ln_dtype(x.dtype), ln_dtype(n.dtype)
    assert source is not None
    assert out is not None
    spec = scan.Scan(
        "sum" if n.name == "cumsum" else "prod",
        prod(x.shape[:d]),
        x.shape[d],
        prod(x.shape[d + 1 :]),
        source,
        out,
    )
    state.launches.append(Launch([x, n], [n], scan.emit(spec, state.isa)))


def _sort(state: Lowering, n: Node) -> None:
    from .lower import Launch

    x = _stored(state, n.args[0])
    d = ln_dtype(x.dtype)
    assert d is not None
    length = x.shape[-1]
    descending = n.arg("largest") if n.name == "topk" else n.arg("descending")
    keep = n.arg("k") if n.name == "topk" else None
    spec = sort.Sort(prod(x.shape[:-1]), length, d, bool(descending), keep)
    kernel = sort.emit(spec, state.isa)
    items = {y.args[1]: y for y in state.order if y.op is ITEM and y.args[0] is n}
    writes = [items.get(i) or _item(n, i) for i in (0, 1)]
    state.memory.update(writes)
    state.launches.append(Launch([x, *writes, WORKSPACE], writes, kernel))


def _item(n: Node, i: int) -> Node:
    from ...graph.node import item

    return item(n, i)


def _scatter(state: Lowering, n: Node) -> None:
    """The base is copied, then the updates are stored or added in row-major order."""
    try:
        _scatter_from(state, n)
    except (maps.Split, maps.NotAffine):  # a reshape that these loops can't see through
        for x in n.inputs[1:]:
            if not state.stored(x):
                raise Unfusable(x) from None
        raise


def _scatter_from(state: Lowering, n: Node) -> None:
    from .lower import Launch, whole

    base = n.args[0]
    d = ln_dtype(n.dtype)
    assert d is not None
    if base not in state.memory and not fusable(base):
        raise Unfusable(base)
    if n.name == "index_put_op":
        _, value, indices, dims, accumulate = n.args
        probe = make("index", (base, indices, dims))
        shape = tuple(probe.shape)
        mode, alpha = ("add" if accumulate else "set"), 1
    elif n.name == "index_add":
        _, dim, index, value, alpha = n.args
        shape, mode = tuple(value.shape), "add"
        probe = make("index_select", (base, dim, index))
    else:
        _, dim, index, value = n.args
        shape, mode, alpha = tuple(index.shape), ("set" if n.name == "scatter_op" else "add"), 1
        probe = make("gather", (base, dim, index, False))
    region = Region(shape, lambda x: x is not n and state.stored(x), state.strides)
    access = maps.identity(shape, [[i] for i in range(len(shape))])
    strides = contiguous_strides(base.shape)
    at = maps.constant(len(shape))
    where: ln.Expr | None = None
    free: set[int] = set()
    for k, i, place in gathered_dims(probe, access):
        if i is None:
            at = at.added(place[0].scaled(strides[k]))
            free.update(j for j, s in enumerate(place[0].strides) if s)
        else:
            step = region.index_step(i, place, base.shape[k], strides[k], n.name == "index_put_op")
            where = step if where is None else ln.apply("add", where, step)
    assert where is not None
    if isinstance(value, Node):
        v = region.expr(value, region.broadcast_to(value, access))
    else:
        v = ln.const(value, d)
    if alpha != 1:
        v = ln.apply("mul", v, ln.const(alpha, d))
    out = region.buffer(n, d)
    spec = scatter.Scatter(
        shape,
        tuple(b for _, b in region.buffers),
        out,
        ln.IndexMap(at.offset, at.strides),
        where,
        v,
        mode,
        tuple(sorted(free)),
    )
    kernel = scatter.emit(spec, state.isa)
    mark = len(state.launches)
    try:
        state.store(base, n, whole, True)
    except Unfusable:
        del state.launches[mark:]
        raise
    state.launches.append(
        Launch([k for k, _ in region.buffers] + [WORKSPACE], [n], kernel, partial=True)
    )
