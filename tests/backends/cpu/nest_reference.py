"""What a loop nest means, in NumPy: the oracle of the loop kernel tests, and a launcher for kernels."""

import ctypes

import ml_dtypes
import numpy as np
from scipy import special

from kiln.backends.cpu import jit
from kiln.backends.cpu.loops import emit
from kiln.compile.loopnest import FLOATS, IndexMap, Store, elementwise, load

DTYPE = {
    "f32": np.float32, "f64": np.float64, "f16": np.float16, "bf16": ml_dtypes.bfloat16,
    "i8": np.int8, "i16": np.int16, "i32": np.int32, "i64": np.int64, "u8": np.uint8,
    "u16": np.uint16, "u32": np.uint32, "u64": np.uint64, "bool": np.bool_,
}  # fmt: skip
COMPUTE = DTYPE | {"f16": np.float32, "bf16": np.float32}


def launch(kernel, isa, arrays, order=None):
    """Run every task of every phase on the arrays (whose first elements are the buffers' origins)."""
    chain = kernel.phases()
    address = jit.build([k.text for k in chain], isa)
    scratch = np.full(kernel.workspace_bytes + 64, 0xAB, np.uint8)
    base = (scratch.ctypes.data + 63) & ~63
    table = (ctypes.c_void_p * (len(arrays) + 1))(*[a.ctypes.data for a in arrays], base)
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
    for k in chain:
        fn = kind(address(k.symbol))
        for task in order(k.ntasks) if order else range(k.ntasks):
            fn(table, task, k.ntasks)


def philox(key, counter, position):
    """One element of a draw: a word of a Philox4x32-10 block, after the paper."""
    mask = (1 << 32) - 1
    counter += position // 4
    x = [counter & mask, (counter >> 32) & mask, 0, 0]
    k = [key & mask, key >> 32]
    for _ in range(10):
        p0, p1 = 0xD2511F53 * x[0], 0xCD9E8D57 * x[2]
        x = [(p1 >> 32) ^ x[1] ^ k[0], p1 & mask, (p0 >> 32) ^ x[3] ^ k[1], p0 & mask]
        k = [(k[0] + 0x9E3779B9) & mask, (k[1] + 0xBB67AE85) & mask]
    return x[position % 4]


UNARY = {
    "neg": np.negative, "abs": np.abs, "sqrt": np.sqrt, "reciprocal": lambda x: 1 / x,
    "rsqrt": lambda x: 1 / np.sqrt(x), "floor": np.floor, "ceil": np.ceil, "trunc": np.trunc,
    "round": np.rint, "exp": np.exp, "exp2": np.exp2, "expm1": np.expm1, "log": np.log,
    "log2": np.log2, "log10": np.log10, "log1p": np.log1p, "sin": np.sin, "cos": np.cos,
    "tan": np.tan, "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "sinh": np.sinh,
    "cosh": np.cosh, "tanh": np.tanh, "erf": special.erf, "erfc": special.erfc,
    "sigmoid": lambda x: special.expit(x).astype(x.dtype), "isnan": np.isnan, "isinf": np.isinf,
    "isfinite": np.isfinite, "not": np.invert,
    "sign": lambda x: ((x > 0).astype(np.int8) - (x < 0).astype(np.int8)).astype(x.dtype),
}  # fmt: skip
BINARY = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.true_divide,
    "floor_div": np.floor_divide, "rem": np.remainder, "fmod": np.fmod, "maximum": np.maximum,
    "minimum": np.minimum, "fmax": np.fmax, "fmin": np.fmin, "atan2": np.arctan2, "pow": np.power,
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
    "ge": np.greater_equal, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
    "shl": np.left_shift, "shr": np.right_shift, "copysign": np.copysign, "nextafter": np.nextafter,
    "gcd": np.gcd, "lcm": lambda x, y: abs(r) if (r := np.lcm(x, y)).itemsize >= 4 else r,
    "trunc_div": lambda x, y: np.where(y == 0, 0, np.trunc(x / np.where(y == 0, 1, y))).astype(x.dtype),
}  # fmt: skip


class Reference:
    """Evaluates a nest on flat buffers; ``origins`` are where each buffer's element 0 lies."""

    def __init__(self, nest, flats, origins=None):
        self.nest, self.flats = nest, flats
        self.origins = origins or [0] * len(flats)
        self.grid = np.indices(nest.dims, dtype=np.int64) if nest.dims else np.zeros((0,), np.int64)
        self.refs = {}

    def where(self, at, extra=0):
        total = np.full(self.nest.dims, at.offset, np.int64)
        for d, s in enumerate(at.strides):
            total = total + s * self.grid[d]
        return total + extra

    def run(self):
        with np.errstate(all="ignore"):
            n_outer = len(self.nest.outer)
            axes = tuple(range(n_outer, len(self.nest.dims)))
            for number, stage in enumerate(self.nest.stages):
                self.memo = {}
                for k, r in enumerate(stage.reductions):
                    value = np.broadcast_to(self.eval(r.expr), self.nest.dims)
                    self.refs[number, k] = self.reduce(r, value, axes)
                self.stores(stage.stores)
            self.memo = {}
            self.stores(self.nest.final, (..., *(0 for _ in axes)) if axes else ...)

    def reduce(self, r, value, axes):
        shape = self.nest.outer + (1,) * len(axes)
        flat = (
            value.reshape(*self.nest.outer, -1)
            if value.size
            else value.reshape((*self.nest.outer, 0))
        )
        if r.kind in ("argmax", "argmin"):
            out = getattr(np, r.kind)(flat, axis=-1)
        elif r.kind in ("sum", "prod"):
            wide = np.float64 if r.dtype in ("f16", "bf16", "f32", "f64") else DTYPE[r.dtype]
            out = getattr(np, r.kind)(flat.astype(wide), axis=-1, dtype=wide).astype(
                COMPUTE[r.dtype]
            )
        else:
            out = getattr(np, r.kind)(flat, axis=-1)
        return np.asarray(out).reshape(shape)

    def stores(self, stores, pick=...):
        values = [
            np.broadcast_to(self.eval(t.expr), self.nest.dims).astype(DTYPE[t.expr.dtype])
            for t in stores
        ]
        for t, v in zip(stores, values, strict=True):
            self.flats[t.buffer][self.origins[t.buffer] + self.where(t.at)[pick]] = v[pick]

    def eval(self, e):
        if e not in self.memo:
            self.memo[e] = np.asarray(self.node(e))
        return self.memo[e]

    def node(self, e):
        if e.op == "const":
            return COMPUTE[e.dtype](e.attr)
        if e.op == "index":
            return self.where(e.attr)
        if e.op == "ref":
            return self.refs[e.attr]
        if e.op == "scalar":
            buffer, offset = e.attr
            return self.flats[buffer][self.origins[buffer] + offset].astype(COMPUTE[e.dtype])
        args = [self.eval(a) for a in e.args]
        if e.op in ("load", "gather"):
            buffer, at = e.attr
            where = self.origins[buffer] + self.where(at, args[0] if e.op == "gather" else 0)
            ok = np.ones(self.nest.dims, bool)
            for d, lo, hi in at.bounds:
                ok &= (self.grid[d] >= lo) & (self.grid[d] < hi)
            value = self.flats[buffer][np.where(ok, where, 0)].astype(COMPUTE[e.dtype])
            return np.where(ok, value, args[0]) if at.bounds else value
        if e.op == "cast":
            return args[0].astype(DTYPE[e.dtype]).astype(COMPUTE[e.dtype])
        if e.op == "bitcast":
            return (
                args[0].astype(DTYPE[e.args[0].dtype]).view(DTYPE[e.dtype]).astype(COMPUTE[e.dtype])
            )
        if e.op == "where":
            return np.where(*args)
        if e.op == "random_bits":
            key, counter, position = np.broadcast_arrays(*args)
            each = np.frompyfunc(lambda k, c, p: philox(int(k), int(c), int(p)), 3, 1)
            return each(key, counter, position).astype(np.uint32)
        if e.op in UNARY:
            return UNARY[e.op](args[0])
        return BINARY[e.op](*args)


def rng():
    return np.random.default_rng(11)


def values(dtype, shape, low=-5, high=5):
    r = rng()
    if dtype == "bool":
        return r.random(shape) < 0.5
    if dtype in FLOATS:
        return r.uniform(low, high, shape).astype(DTYPE[dtype])
    return r.integers(0 if dtype[0] == "u" else low, high, shape).astype(DTYPE[dtype])


def rowmajor(shape):
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= n
    return tuple(reversed(strides))


def check(nest, arrays, isa, origins=None, rtol=3e-6, atol=1e-6, exact=False):
    """Run kernel and reference on copies of the arrays; all buffers must agree. Returns the kernel's."""
    origins = origins or [0] * len(arrays)
    flats = [np.ascontiguousarray(a).reshape(-1).copy() for a in arrays]
    mine = [a.copy() for a in flats]
    Reference(nest, flats, origins).run()
    kernel = emit(nest, isa)
    launch(kernel, isa, [a[o:] for a, o in zip(mine, origins, strict=True)])
    for got, want, dtype in zip(mine, flats, nest.buffers, strict=True):
        if dtype in FLOATS and not exact:
            loose = {"f16": 2e-3, "bf16": 1e-2}.get(dtype, rtol)
            np.testing.assert_allclose(
                got.astype(np.float64),
                want.astype(np.float64),
                rtol=loose,
                atol=max(atol, loose * 1e-2),
            )
        else:
            if dtype in FLOATS:
                with np.errstate(invalid="ignore"):  # signalling NaNs
                    got, want = got.astype(np.float64), want.astype(np.float64)
            np.testing.assert_array_equal(got, want)
    return [g.reshape(a.shape) for g, a in zip(mine, arrays, strict=True)]


def unary_nest(build, source, target, shape):
    at = IndexMap(0, rowmajor(shape))
    return elementwise(shape, (source, target), [Store(1, at, build(load(0, source, at)))])
