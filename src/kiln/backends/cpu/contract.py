"""Contractions of a Graph as kernels: matmul, convolution and its gradients, with fused epilogues."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from ... import dtypes as dt
from ...compile import loopnest as ln
from ...compile import maps
from ...compile.maps import Affine, NotAffine, Split
from ...compile.orders import Strides, channels_inside, row_major
from ...compile.regions import GATHERS, Region, Unfusable, fusable, ln_dtype
from ...compile.views import strided_view
from ...graph.node import INPUT, Node
from ...shape import contiguous_strides
from . import conv, gemm
from .conv_shape import Conv, prefers_channels_last
from .ir import Val
from .isa import Isa
from .kernel import Kernel
from .microkernel import ARG_EXTRA, Site
from .points import PointEmitter
from .text import Text

_GEMM = {dt.float32: "f32", dt.float64: "f64", dt.bfloat16: "bf16"}
Stored = Callable[[Node], bool]


def lowers(n: Node) -> bool:
    """Whether a node is a contraction that has a kernel here; empty ones are left to the reference."""
    if n.name in (
        "matmul",
        "_int_mm",
        "convolution",
        "conv_input_grad",
        "conv_weight_grad",
    ) and any(0 in x.shape for x in n.inputs):
        return False
    if n.name == "matmul":
        return n.dtype in _GEMM and all(x.dtype is n.dtype for x in n.inputs)
    if n.name == "_int_mm":
        return True
    if n.name in ("convolution", "conv_input_grad", "conv_weight_grad"):
        return n.dtype in (dt.float32, dt.float64) and len(n.arg("stride")) <= 2 and _fits(n)
    return False


def _fits(n: Node) -> bool:
    """Whether the windows of a convolution's gradient are all that its image has room for.

    A transposed convolution with output padding may leave some out, which the kernels don't know.
    """
    if n.name == "convolution":
        return True
    image = n.shape if n.name == "conv_input_grad" else n.args[1].shape
    weight = n.args[1].shape if n.name == "conv_input_grad" else n.shape
    sizes = zip(
        image[2:],
        weight[2:],
        n.args[0].shape[2:],
        n.arg("stride"),
        n.arg("padding"),
        n.arg("dilation"),
        strict=True,
    )
    return all((i + 2 * p - d * (k - 1) - 1) // s + 1 == out for i, k, out, s, p, d in sizes)


@dataclass(frozen=True)
class ExprEpilogue:
    """A contraction's epilogue: an expression over (batch, row, column) with the accumulator as a leaf."""

    nest: ln.LoopNest
    leaf: ln.Expr
    isa: Isa
    heavy: bool

    def emit(self, b: Text, site: Site) -> str:
        """The epilogue's value for one vector of columns."""
        args = b.ir.gep(Val(site.args, "ptr"), "ptr", b.ir.i64(ARG_EXTRA))
        points = PointEmitter(b.ir, self.isa, self.nest, args)
        index = [Val(site.batch, "i64"), Val(site.row, "i64"), Val(site.col, "i64")]
        mask = None if site.mask is None else Val(site.mask, f"<{site.lanes} x i1>")
        value = Val(site.value, site.vtype)
        (out,) = points.values(index, {self.leaf: value}, 2, site.lanes, mask)
        return out.ref

    def lines(self, b: Text, row: str, col: str, batch: str) -> list[str]:
        """Where operands of the result's shape are read; what all rows share is near already."""
        found = []
        for kind, buffer, at in self.nest.accesses():
            if kind == "load" and at.strides[1] and at.strides[2] == 1:
                place = b.add(b.mul(batch, at.strides[0]), b.mul(row, at.strides[1]))
                base = b.argument("%args", ARG_EXTRA + buffer)
                place = b.add(b.add(place, col), at.offset)
                found.append(b.at(base, place, ln.ITEMSIZE[self.nest.buffers[buffer]]))
        return found


@dataclass
class Contraction:
    """A kernel, the nodes in its argument table (None where the workspace or nothing goes) and the node it stores.

    With a `packing` the kernel wants operand B (of a convolution: the weights) as this kernel leaves it in
    so many bytes of workspace.
    """

    kernel: Kernel
    arguments: list[Any]
    result: Node
    packing: tuple[Kernel, int] | None = None


WORKSPACE = "workspace"


def _symbol(kind: str, spec: Any, isa: Isa) -> str:
    return f"{kind}_{hashlib.sha256(f'{spec}|{isa.key}'.encode()).hexdigest()[:20]}"


def epilogue_ends(n: Node, users: dict[Node, list[Node]], outputs: set[Node]) -> list[Node]:
    """Nodes at which an epilogue of a contraction could end, nearest first.

    The nodes between the contraction and an end are elementwise, have its shape, and are read by
    nobody else: a group with one exit, which grows by one reader at a time.
    """
    ends: list[Node] = []
    group = [n]
    while len(group) < 16:
        inside = set(group)
        if n in outputs or any(x in outputs for x in group[:-1]):
            break
        nearest: Node | None = None
        for x in group:
            for u in users[x]:
                if u not in inside and _joins(u, n):
                    nearest = u if nearest is None or _before(u, nearest) else nearest
        if nearest is None:
            break
        group.append(nearest)
        inside.add(nearest)
        exits = [x for x in group if x in outputs or any(u not in inside for u in users[x])]
        if exits == [nearest] and nearest.dtype is n.dtype:
            ends.append(nearest)
    return ends


def _joins(u: Node, n: Node) -> bool:
    """Whether a reader can be part of an epilogue: elementwise, of the contraction's shape."""
    family = getattr(u.op, "family", "")
    return (
        u.outputs is None
        and fusable(u)
        and family in ("elementwise", "select", "cast")
        and tuple(u.shape) == tuple(n.shape)
    )


def _before(a: Node, b: Node) -> bool:
    """Whether b reads a, directly or through other elementwise nodes close by."""
    stack, steps = [b], 0
    while stack and steps < 64:
        x = stack.pop()
        steps += 1
        if x is a:
            return True
        if x.op is not INPUT and getattr(x.op, "family", "") in ("elementwise", "select", "cast"):
            stack.extend(x.inputs)
    return False


def _epilogue(
    n: Node,
    chain: Sequence[Node],
    dims: tuple[int, int, int],
    ops: Operands,
    isa: Isa,
    bias: Node | None,
    channel: int | None = None,
) -> tuple[ExprEpilogue | None, list[Node], Node]:
    """The furthest end that can be fused, as an epilogue, what it reads, and the node that it ends at."""
    d = ln_dtype(n.dtype)
    assert d is not None
    if d not in ("f32", "f64"):
        return None, [], n
    best: tuple[ExprEpilogue | None, list[Node], Node] = (None, [], n)
    for end in ([n] if bias is not None else []) + list(chain):
        got = _one_epilogue(n, end, dims, ops, isa, bias, d, channel)
        if got is not None:
            best = got
    return best


# Where the loops of an epilogue do not tell the last dimensions of a node apart (pixels of a
# convolution), these are accessed at an Affine that no load accepts, except as a whole.
# A place along a dimension that the loops do not tell: an offset that no index has, another one for
# each dimension, so that dimensions which change places are seen to.
_OPAQUE = 1 << 60
_BY_PLACE = {"arange", "random_bits", "pad", "reshape", "windows_grad", *GATHERS}
"""What computes with the number of a place, not only with an offset in memory."""


def _opaque(dims: int, n: int) -> list[Affine]:
    return [Affine(_OPAQUE * 1_000_003**k, (0,) * n) for k in range(dims)]


def _is_opaque(offset: int) -> bool:
    return abs(offset) >= _OPAQUE >> 1  # flipped and moved a little, perhaps


class _EpilogueRegion(Region):
    """A region over (batch, row, column) for nodes of a contraction's shape.

    ``channel`` says which loop runs over the channels of a convolution's result.
    """

    def __init__(
        self,
        dims: Sequence[int],
        stored: Stored,
        strides: Strides,
        shape: Sequence[int],
        channel: int | None,
    ):
        super().__init__(dims, stored, strides)
        self.shape, self.channel = tuple(shape), channel
        n = len(dims)
        loops = maps.identity(dims, [[0], [1], [2]])
        opaque = _opaque(len(shape), n)
        self.access: tuple[Affine, ...]
        self.numbers: Any = None  # shape and access of what has one number for each row
        if channel is not None:
            self.access = (loops[0], loops[channel], *opaque[2:])
        elif len(shape) > 2 and dims[0] == 1:  # leading dimensions that are rows together
            zero = maps.constant(n)
            lead = tuple(zero if s == 1 else opaque[k] for k, s in enumerate(shape[:-1]))
            self.access = (*lead, loops[2])
            self.numbers = (*shape[:-1], 1), (*lead, zero)
        else:
            self.access = maps.reshape(loops, dims, shape, dims)

    def position(self, access: Sequence[Affine], n: Node) -> ln.IndexMap:
        strides, plain = self.strides(n), self.strides(n) == row_major(n)
        if tuple(n.shape) == self.shape and tuple(access) == self.access:
            if self.channel is not None:  # the other loop runs over all pixels
                steps = [strides[0], strides[-1], strides[-1]]
                steps[self.channel] = strides[1]
                return ln.IndexMap(0, tuple(steps))
            if plain:
                return ln.IndexMap(0, (self.dims[1] * self.dims[2], self.dims[2], 1))
        if (tuple(n.shape), tuple(access)) == self.numbers and plain:
            return ln.IndexMap(0, (0, 1, 0))
        at = super().position(access, n)
        if _is_opaque(at.offset):
            raise NotAffine
        return at

    def _expr(self, n: Node, access: tuple[Affine, ...]) -> ln.Expr:
        told = n in self.leaves or self.stored(n) or n.name not in _BY_PLACE
        if not told and any(_is_opaque(a.offset) for a in access):
            raise NotAffine
        return super()._expr(n, access)


def _one_epilogue(
    n: Node,
    end: Node,
    dims: tuple[int, int, int],
    ops: Operands,
    isa: Isa,
    bias: Node | None,
    d: str,
    channel: int | None,
) -> Any:
    if channel is None and ops.strides(end) != row_major(end):
        return None
    stored = ops.stored
    leaf: ln.Expr = ln.leaf("acc", d)
    value = leaf
    try:
        region = _EpilogueRegion(
            dims, lambda x: x is not end and x is not n and stored(x), ops.strides, n.shape, channel
        )
        if bias is not None:
            channels = maps.identity(dims, [[channel or 1]])
            at = Region.position(region, channels, bias)
            value = ln.apply("add", value, ln.load(region.buffer(bias, d), d, at))
        region.leaves[n] = (region.access, value)
        result = value if end is n else region.expr(end, region.access)
    except (Split, NotAffine, Unfusable):
        return None
    extras = [k for k, _ in region.buffers]
    out = region.buffer("out", d)
    store = ln.Store(out, ln.IndexMap(0, (dims[1] * dims[2], dims[2], 1)), result)
    nest = ln.elementwise(dims, [b for _, b in region.buffers], [store])
    return ExprEpilogue(nest, leaf, isa, len(ln.walk([result])) > 8), extras, end


class Operands:
    """Finds contraction operands in memory; asks for a copy where they are not there."""

    def __init__(self, stored: Stored, strides: Strides):
        self.stored, self.strides = stored, strides

    def view(self, n: Node) -> tuple[Node, tuple[int, ...], int]:
        """(memory node, strides, offset in elements) of an operand."""
        found = strided_view(n, self.stored, self.strides)
        if found is None:
            raise Unfusable(n)
        memory, strides, offset = found
        plain = self.strides(n)
        return (
            memory,
            tuple(p if s == 1 else st for s, st, p in zip(n.shape, strides, plain, strict=True)),
            offset,
        )


def lower(
    n: Node,
    users: dict[Node, list[Node]],
    outputs: set[Node],
    stored: Stored,
    strides: Strides,
    isa: Isa,
    steady: frozenset[Node] = frozenset(),
) -> Contraction:
    """The kernel of a contraction node, together with what its epilogue takes in.

    `steady` are nodes that stay as they are from step to step of a loop, or from call to call.
    """
    chain = epilogue_ends(n, users, outputs)
    ops = Operands(stored, strides)
    if n.name in ("matmul", "_int_mm"):
        return _matmul(n, chain, ops, isa, steady)
    return _convolution(n, chain, ops, isa, steady)


def _matmul(
    n: Node, chain: list[Node], ops: Operands, isa: Isa, steady: frozenset[Node]
) -> Contraction:
    a, b = n.args
    (am, ast, aoff), (bm, bst, boff) = ops.view(a), ops.view(b)
    ash, bsh = tuple(a.shape), tuple(b.shape)
    if len(ash) == 1:
        ash, ast = (1, *ash), (0, *ast)
    if len(bsh) == 1:
        bsh, bst = (*bsh, 1), (*bst, 0)
    m, k, cols = ash[-2], ash[-1], bsh[-1]
    batch = tuple(n.shape[: len(n.shape) - (len(a.shape) > 1) - (len(b.shape) > 1)])

    def strides(shape: tuple, st: tuple) -> tuple[int, ...]:
        own, own_st = shape[:-2], st[:-2]
        lead = len(batch) - len(own)
        return tuple(
            0 if i < lead or own[i - lead] == 1 else own_st[i - lead] for i in range(len(batch))
        )

    d = "i8" if n.name == "_int_mm" else _GEMM[n.dtype]
    out = "i32" if n.name == "_int_mm" else d
    a_batch, b_batch = strides(ash, ast), strides(bsh, bst)
    epilogue, extras, end = _epilogue(n, chain, (prod(batch), m, cols), ops, isa, None)
    together = contiguous_strides((*batch, m))
    flat = tuple(s * ast[-2] for s in together[:-1])
    if len(n.shape) > 2 and not any(b_batch) and (a_batch == flat or prod(batch) == 1):
        # one product with the rows of all batches, if its epilogue can do as much
        rows = _epilogue(n, chain, (1, prod(batch) * m, cols), ops, isa, None)
        if rows[2] is end:
            epilogue, extras, end = rows
            m, batch, a_batch, b_batch = prod(batch) * m, (), (), ()
    spec = gemm.Gemm(
        m, cols, k, (ast[-2], ast[-1]), (bst[-2], bst[-1]), (cols, 1), d, d, out, batch,
        a_batch, b_batch, contiguous_strides((*batch, m * cols))[:-1], epilogue,
    )  # fmt: skip
    packing = None
    if bm in steady:
        plain = replace(spec, epilogue=None)
        packing = gemm.pack_ahead(spec, isa, _symbol("pack", plain, isa))
    kernel = _product(replace(spec, ahead=packing is not None), isa)
    arguments = [end, (am, aoff), (bm, boff), WORKSPACE, *extras, None]
    return Contraction(kernel, arguments, end, packing)


@functools.lru_cache(maxsize=256)
def _product(spec: gemm.Gemm, isa: Isa) -> Kernel:
    """A product's kernel: written once for layers that are alike."""
    return gemm.emit(spec, isa, _symbol("gemm", spec, isa))


def _pair(values: Sequence[int], fill: int) -> tuple[int, int]:
    return (fill, values[0]) if len(values) == 1 else (values[0], values[1])


def _four(shape: Sequence[int]) -> tuple[int, int, int, int]:
    """Sizes of a 1-d or 2-d convolution's tensor with a height of 1 put in."""
    s = tuple(shape)
    return (s[0], s[1], 1, s[2]) if len(s) == 3 else s  # type: ignore[return-value]


def _description(n: Node, x_st: Sequence[int], w_st: Sequence[int], y_st: Sequence[int]) -> Conv:
    """What a convolution (or gradient) is, with x, w and y (or their gradients) at these strides."""
    if n.name == "convolution":
        xs, ws, ys = n.args[0].shape, n.args[1].shape, n.shape
    elif n.name == "conv_input_grad":
        xs, ws, ys = n.shape, n.args[1].shape, n.args[0].shape
    else:
        xs, ws, ys = n.args[1].shape, n.shape, n.args[0].shape
    x4, w4 = _four(xs), _four(ws)
    padding = _pair(n.arg("padding"), 0)
    return Conv(
        x4[0], x4[1], (x4[2], x4[3]), w4[0], (w4[2], w4[3]),
        _four_strides(xs, x_st), _four_strides(ws, w_st), _four_strides(ys, y_st),
        _pair(n.arg("stride"), 1), ((padding[0], padding[0]), (padding[1], padding[1])), _pair(n.arg("dilation"), 1),
        n.arg("groups"), _GEMM[n.dtype],
    )  # fmt: skip


def _four_strides(shape: Sequence[int], strides: Sequence[int]) -> tuple[int, int, int, int]:
    """With a height of 1 its stride only has to make the plane one run."""
    if len(shape) == 3:
        return (strides[0], strides[1], shape[2] * strides[2], strides[2])
    return tuple(strides)  # type: ignore[return-value]


def channels_last_gain(n: Node) -> int:
    """How much a convolution (or gradient) gains where its images lie channels-last: its work, or less than nothing."""
    if not lowers(n):
        return 0
    if n.name == "convolution":
        x, w, y = n.args[0], n.args[1], n
    elif n.name == "conv_input_grad":
        x, w, y = n, n.args[1], n.args[0]
    else:
        x, w, y = n.args[1], n, n.args[0]
    spec = _description(n, channels_inside(x), row_major(w), channels_inside(y))
    return spec.flops if prefers_channels_last(spec) else -spec.flops


def _convolution(
    n: Node, chain: list[Node], ops: Operands, isa: Isa, steady: frozenset[Node]
) -> Contraction:
    x, w = n.args[0], n.args[1]  # of a gradient: dy, and w or the image
    (xm, xst, xoff), (wm, wst, woff) = ops.view(x), ops.view(w)
    if n.name != "convolution" and xst not in (row_major(x), channels_inside(x)):
        raise Unfusable(x)  # dy's rows must follow each other
    if any(step == 0 and size != 1 for step, size in zip(wst, w.shape, strict=True)):
        raise Unfusable(w)  # an expanded weight: kernels tell its channels apart by their steps
    if n.name == "conv_input_grad":
        spec = replace(_description(n, ops.strides(n), wst, xst), kept=wm in steady)
        kernel = conv.emit_backward_data(spec, isa, _symbol("convdx", spec, isa))
        return Contraction(kernel, [n, (xm, xoff), (wm, woff), WORKSPACE], n)
    if n.name == "conv_weight_grad":
        spec = _description(n, wst, ops.strides(n), xst)
        kernel = conv.emit_backward_weight(spec, isa, _symbol("convdw", spec, isa))
        return Contraction(kernel, [n, (wm, woff), (xm, xoff), WORKSPACE], n)
    bias = n.args[2]
    if bias is not None and not ops.stored(bias):
        raise Unfusable(bias)
    (batch, channels, high, wide), last = _four(n.shape), ops.strides(n)[1] == 1
    dims, channel = (
        ((batch, high * wide, channels), 2) if last else ((batch, channels, high * wide), 1)
    )
    chain = [end for end in chain if ops.strides(end) == ops.strides(n)]
    epilogue, extras, end = _epilogue(n, chain, dims, ops, isa, bias, channel)
    spec = replace(_description(n, xst, wst, ops.strides(end)), kept=wm in steady)
    kernel = conv.emit_forward(spec, isa, _symbol("conv", (spec, epilogue), isa), epilogue)
    packing = None
    if kernel.prepared_bytes:
        assert kernel.then is not None
        packing = replace(kernel, then=None, workspace_bytes=0), kernel.prepared_bytes
        kernel = kernel.then
    arguments = [end, (xm, xoff), (wm, woff), WORKSPACE, *extras, None]
    return Contraction(kernel, arguments, end, packing)
