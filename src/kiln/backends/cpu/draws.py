"""What PyTorch's functions draw from its generator, as kernels on the generator's state: Note [PyTorch's stream].

A kernel is `void (ptr state, ptr out, i64 n, ptr given, i64 cols, i64 rows)`: n elements go to `out`, made of the words that come
next in a state of PyTorch's (`kiln.mersenne`), which moves on. `given` are numbers or parameters. Python calls it as a
builtin function of arrays and ints, as one draw of a few numbers costs what its calls cost. What is computed in double
precision is computed by the C library's functions, whose bits PyTorch's numbers have.
"""

from __future__ import annotations

import ctypes
import functools
import math
import os
from collections.abc import Callable, Sequence

from kiln.mersenne import KEPT, KEYS
from kiln.runtime.calls import direct

from . import jit, twister
from .ir import Builder, Module, Val, vec
from .isa import Isa
from .twister import PIECE, WORDS
from .vmath import VMath

_PARAMS = [("ptr", "state"), ("ptr", "out"), ("i64", "n"), ("ptr", "given"), ("i64", "cols"), ("i64", "rows")]  # fmt: skip
_BLOCK = 16
"""Normal numbers that are made together: half of them cosines, half of them sines."""
_LEFT, _NEXT, _IS_KEPT = 8, 16, KEPT + 16
"""Where a state has these numbers, in bytes: words left, which comes next, whether half of a pair is kept (at KEPT)."""
_LIBRARY = ("log", "log1p", "cos", "sin", "pow", "fma")
TINY = {"float": 2.0**-126, "double": 2.0**-1022}
_SIZE = {"float": 4, "double": 8}


# ---------------------------------------------------------------- words of a state


def _field(b: Builder, state: Val, byte: int) -> Val:
    return b.gep(state, "i8", b.i64(byte))


def _left(b: Builder, state: Val) -> Val:
    return b.conv("zext", b.load("i32", _field(b, state, _LEFT), 4), "i64")


def _ready(b: Builder, state: Val) -> Val:
    """Which word comes next, once there is one."""
    left = _left(b, state)
    with b.if_then(b.icmp("ule", left, b.i64(1)), [b.sub(b.i64(WORDS + 1), left)]) as renewed:
        b.call("renew_state", "void", [state])
        renewed.set(b.i64(0))
    return renewed.results[0]


def _move(b: Builder, state: Val, at: Val) -> None:
    """Have a word come next, of 624 the first."""
    b.store(b.conv("trunc", b.sub(b.i64(WORDS + 1), at), "i32"), _field(b, state, _LEFT), 4)
    b.store(at, _field(b, state, _NEXT), 8)


def _renew_state(module: Module) -> None:
    """`void renew_state(ptr state)`: the next 624 words of a state that has 64 bits for each."""
    b = module.function("renew_state", _PARAMS[:1], internal=True)
    (state,) = b.params
    words = b.emit("ptr", f"alloca [{WORDS} x i32], align 64")
    keys = _field(b, state, KEYS)
    with b.loop(b.i64(0), b.i64(WORDS), _BLOCK) as part:
        wide = b.load(vec("i64", _BLOCK), b.gep(keys, "i64", part.i), 8)
        b.store(b.conv("trunc", wide, "i32"), b.gep(words, "i32", part.i), 4)
    b.call("renew", "void", [words])
    with b.loop(b.i64(0), b.i64(WORDS), _BLOCK) as part:
        narrow = b.load(vec("i32", _BLOCK), b.gep(words, "i32", part.i), 4)
        b.store(b.conv("zext", narrow, "i64"), b.gep(keys, "i64", part.i), 8)
    b.ret()


def _fill_words(module: Module) -> None:
    """`void fill_words(ptr state, ptr out, i64 n)`: the next n words."""
    b = module.function("fill_words", _PARAMS[:3], internal=True)
    state, out, n = b.params
    keys = _field(b, state, KEYS)
    with b.if_then(b.icmp("sgt", n, b.i64(0))), b.repeat([b.i64(0)]) as chunk:
        done = chunk.carried[0]
        at = _ready(b, state)
        here, left = b.sub(b.i64(WORDS), at), b.sub(n, done)
        count = b.select(b.icmp("slt", here, left), here, left)
        source, target = b.gep(keys, "i64", at), b.gep(out, "i32", done)

        def write(i: Val, lanes: int) -> None:
            y = b.load(vec("i64", lanes), b.gep(source, "i64", i), 8)
            y = twister.tempered(b, b.conv("trunc", y, "i32"))
            b.store(y, b.gep(target, "i32", i), 4)

        twister.spans(b, b.i64(0), count, write)
        _move(b, state, b.add(at, count))
        total = b.add(done, count)
        chunk.again = b.icmp("slt", total, n)
        chunk.next(total)
    b.ret()


def _word(module: Module) -> None:
    """`i32 word(ptr state)`: the next word."""
    b = module.function("word", _PARAMS[:1], "i32", internal=True)
    (state,) = b.params
    at = _ready(b, state)
    y = b.load("i64", b.gep(_field(b, state, KEYS), "i64", at), 8)
    _move(b, state, b.add(at, b.i64(1)))
    b.ret(twister.tempered(b, b.conv("trunc", y, "i32")))


def _wide(b: Builder, state: Val) -> Val:
    """The next two words as an integer of 64 bits, the high one first."""
    high, low = (b.conv("zext", b.call("word", "i32", [state]), "i64") for _ in range(2))
    return b.bin("or", b.bin("shl", high, b.i64(32)), low)


def _uniform(module: Module) -> None:
    """`double uniform(ptr state)`: the next number in [0, 1) of 53 bits."""
    b = module.function("uniform", _PARAMS[:1], "double", internal=True)
    (state,) = b.params
    low = b.bin("and", _wide(b, state), b.i64(2**53 - 1))
    x = b.conv("sitofp", low, "double")
    b.ret(b.bin("fmul", x, b.const("double", 2.0**-53)))


def _normal(module: Module) -> None:
    """`double normal(ptr state)`: the second of a pair (Box and Muller, 1958) drawn before, or the first of the next."""
    b = module.function("normal", _PARAMS[:1], "double", internal=True)
    (state,) = b.params
    kept, is_kept = _field(b, state, KEPT), _field(b, state, _IS_KEPT)
    zero, none = b.const("double", 0.0), b.const("i32", 0)
    had = b.icmp("ne", b.load("i32", is_kept, 4), none)
    with b.if_then(had):
        last = b.load("double", kept, 8)
        b.store(zero, kept, 8)
        b.store(none, is_kept, 4)
        b.ret(last)
        b.start(b.label("after"))  # what follows a return is never run
    turn = b.bin("fmul", _draw(b, state), b.const("double", math.tau))
    log = b.call("log1p", "double", [b.fneg(_draw(b, state))])
    r = b.intrinsic("sqrt", b.bin("fmul", log, b.const("double", -2.0)))
    b.store(b.bin("fmul", r, b.call("sin", "double", [turn])), kept, 8)
    b.store(b.const("i32", 1), is_kept, 4)
    b.ret(b.bin("fmul", r, b.call("cos", "double", [turn])))


def _draw(b: Builder, state: Val, what: str = "uniform") -> Val:
    return b.call(what, "double", [state])


_HELPERS = {"renew": twister.renew, "renew_state": _renew_state, "fill_words": _fill_words,
            "word": _word, "uniform": _uniform, "normal": _normal}  # fmt: skip


# ---------------------------------------------------------------- kernels

_Make = Callable[[Builder, Isa, Sequence[Val]], None]
_KERNELS: dict[str, _Make] = {}


def _kernel(name: str) -> Callable[[_Make], _Make]:
    def register(make: _Make) -> _Make:
        _KERNELS[name] = make
        return make

    return register


def _number(b: Builder, given: Val, i: int) -> Val:
    return b.load("double", b.gep(given, "double", b.i64(i)), 8)


def _put(b: Builder, x: Val, out: Val, i: Val, element: str) -> None:
    """Store a double as an element of that type."""
    x = x if element == "double" else b.conv("fptrunc", x, element)
    b.store(x, b.gep(out, element, i), _SIZE[element])


def _one_by_one(element: str, value: Callable[[Builder, Val, Val, Val], Val]) -> _Make:
    """`value(builder, state, given, i)`, a double, for each element."""

    def make(b: Builder, isa: Isa, params: Sequence[Val]) -> None:
        state, out, n, given = params[:4]
        with b.loop(b.i64(0), n) as each:
            _put(b, value(b, state, given, each.i), out, each.i, element)

    return make


def _waiting(b: Builder, state: Val, given: Val, _: Val) -> Val:
    """Exponential: `given` is minus the rate."""
    log = b.call("log1p", "double", [b.fneg(_draw(b, state))])
    return b.bin("fdiv", log, _number(b, given, 0))


def _scaled(b: Builder, z: Val, given: Val) -> Val:
    """A normal number times a deviation, plus a mean, rounded once: `given` are mean and deviation."""
    return b.intrinsic("fma", z, _number(b, given, 1), _number(b, given, 0))


def _few_normal(b: Builder, state: Val, given: Val, _: Val) -> Val:
    return _scaled(b, _draw(b, state, "normal"), given)


for _element in _SIZE:
    _KERNELS[f"exponential_{_element}"] = _one_by_one(_element, _waiting)
    _KERNELS[f"few_normal_{_element}"] = _one_by_one(_element, _few_normal)


@_kernel("normal_double")
def _normal_double(b: Builder, isa: Isa, params: Sequence[Val]) -> None:
    """16 or more, in blocks; where the last one is no whole block, the last 16 are drawn anew."""
    state, out, n, given = params[:4]

    def uniform(start: Val) -> None:
        with b.loop(start, n) as each:
            _put(b, _draw(b, state), out, each.i, "double")

    def block(start: Val) -> None:
        with b.loop(b.i64(0), b.i64(_BLOCK // 2)) as each:
            here = b.add(start, each.i)
            pair = [b.gep(out, "double", p) for p in (here, b.add(here, b.i64(_BLOCK // 2)))]
            u, turn = (b.load("double", p, 8) for p in pair)
            log = b.call("log", "double", [b.bin("fsub", b.const("double", 1.0), u)])
            r = b.intrinsic("sqrt", b.bin("fmul", log, b.const("double", -2.0)))
            turn = b.bin("fmul", turn, b.const("double", math.tau))
            for p, name in zip(pair, ("cos", "sin"), strict=True):
                z = b.bin("fmul", r, b.call(name, "double", [turn]))
                b.store(_scaled(b, z, given), p, 8)

    uniform(b.i64(0))
    last = b.sub(n, b.i64(_BLOCK))
    with b.loop(b.i64(0), b.add(last, b.i64(1)), _BLOCK) as each:
        block(each.i)
    with b.if_then(b.icmp("ne", b.bin("and", n, b.i64(_BLOCK - 1)), b.i64(0))):
        uniform(last)
        block(last)


@_kernel("normal_float")
def _normal_float(b: Builder, isa: Isa, params: Sequence[Val]) -> None:
    """The same in single precision, by vectors."""
    state, out, n, given = params[:4]
    half, math_of = _BLOCK // 2, VMath(b, isa)
    scratch = b.emit("ptr", f"alloca [{PIECE} x i32], align 64")
    wide = [b.splat(_number(b, given, i), half) for i in range(2)]
    mean, deviation = wide

    def block(words: Val, target: Val) -> None:
        u, turn = (_unit(b, b.load(vec("i32", half), b.gep(words, "i32", b.i64(k)), 4)) for k in (0, half))  # fmt: skip
        log = math_of.log(b.bin("fsub", math_of.c(u, 1.0), u))
        r = math_of.sqrt(math_of.mul(log, math_of.c(u, -2.0)))
        sin, cos = math_of.sin_cos(math_of.mul(turn, math_of.c(u, math.tau)))
        for k, x in ((0, cos), (half, sin)):
            z = b.conv("fpext", math_of.mul(r, x), "double")
            z = math_of.add(math_of.mul(z, deviation), mean)
            b.store(b.conv("fptrunc", z, "float"), b.gep(target, "float", b.i64(k)), 4)

    with b.loop(b.i64(0), n, PIECE) as piece:
        left = b.sub(n, piece.i)
        count = b.select(b.icmp("slt", b.i64(PIECE), left), b.i64(PIECE), left)
        b.call("fill_words", "void", [state, scratch, count])
        target = b.gep(out, "float", piece.i)
        with b.loop(b.i64(0), b.bin("and", count, b.i64(-_BLOCK)), _BLOCK) as each:
            block(b.gep(scratch, "i32", each.i), b.gep(target, "float", each.i))
    with b.if_then(b.icmp("ne", b.bin("and", n, b.i64(_BLOCK - 1)), b.i64(0))):
        b.call("fill_words", "void", [state, scratch, b.i64(_BLOCK)])
        block(scratch, b.gep(out, "float", b.sub(n, b.i64(_BLOCK))))


def _unit(b: Builder, w: Val) -> Val:
    """Words as numbers in [0, 1) of 24 bits."""
    x = b.conv("sitofp", b.bin("and", w, b.const(w.ty, 2**24 - 1)), "float")
    return b.bin("fmul", x, b.const(x.ty, 2.0**-24))


@_kernel("integers")
def _integers(b: Builder, isa: Isa, params: Sequence[Val]) -> None:
    """Of a word each: `given` are how many integers, and the first."""
    state, out, n, given = params[:4]
    span = b.conv("trunc", b.load("i64", given, 8), "i32")
    first = b.load("i64", b.gep(given, "i64", b.i64(1)), 8)
    with b.loop(b.i64(0), n) as each:
        w = b.bin("urem", b.call("word", "i32", [state]), span)
        b.store(b.bin("add", b.conv("zext", w, "i64"), first), b.gep(out, "i64", each.i), 8)


@_kernel("long_integers")
def _long_integers(b: Builder, isa: Isa, params: Sequence[Val]) -> None:
    """Of two words each."""
    state, out, n, given = params[:4]
    span = b.load("i64", given, 8)
    first = b.load("i64", b.gep(given, "i64", b.i64(1)), 8)
    with b.loop(b.i64(0), n) as each:
        w = b.bin("urem", _wide(b, state), span)
        b.store(b.bin("add", w, first), b.gep(out, "i64", each.i), 8)


@_kernel("permutation")
def _permutation(b: Builder, isa: Isa, params: Sequence[Val]) -> None:
    """Each of 0, 1, … swapped with itself or one behind it."""
    state, out, n = params[:3]
    with b.loop(b.i64(0), n) as each:
        b.store(each.i, b.gep(out, "i64", each.i), 8)
    with b.loop(b.i64(0), b.sub(n, b.i64(1))) as each:
        rest = b.conv("trunc", b.sub(n, each.i), "i32")
        w = b.bin("urem", b.call("word", "i32", [state]), rest)
        places = [b.gep(out, "i64", i) for i in (each.i, b.add(each.i, b.conv("zext", w, "i64")))]
        here, there = (b.load("i64", p, 8) for p in places)
        b.store(here, places[1], 8)
        b.store(there, places[0], 8)


def _trials(element: str) -> _Make:
    """1 with the probability that is given for each element."""

    def make(b: Builder, isa: Isa, params: Sequence[Val]) -> None:
        state, out, n, given = params[:4]
        one, zero = b.const(element, 1.0), b.const(element, 0.0)
        with b.loop(b.i64(0), n) as each:
            p = b.load(element, b.gep(given, element, each.i), _SIZE[element])
            u = _draw(b, state) if element == "double" else _unit(b, b.call("word", "i32", [state]))
            x = b.select(b.fcmp("olt", u, p), one, zero)
            b.store(x, b.gep(out, element, each.i), _SIZE[element])

    return make


@_kernel("choices")
def _choices(b: Builder, isa: Isa, params: Sequence[Val]) -> None:
    """For each of n rows of `cols` growing sums up to 1 that are given, `rows` times how many are less than a number drawn."""
    state, out, n, given, cols, times = params
    with b.loop(b.i64(0), n) as row, b.loop(b.i64(0), times) as each:
        sums = b.gep(given, "double", b.mul(row.i, cols))
        u = _draw(b, state)
        with b.repeat([b.i64(0), cols]) as search:
            low, high = search.carried
            middle = b.bin("lshr", b.add(low, high), b.i64(1))
            less = b.fcmp("olt", b.load("double", b.gep(sums, "double", middle), 8), u)
            low = b.select(less, b.add(middle, b.i64(1)), low)
            high = b.select(less, high, middle)
            search.again = b.icmp("slt", low, high)
            search.next(low, high)
        at = b.add(b.mul(row.i, times), each.i)
        b.store(search.results[0], b.gep(out, "i64", at), 8)


def _chosen(element: str) -> _Make:
    """A place of each of n rows of `cols` weights, by the largest of them over exponential numbers (Efraimidis and Spirakis, 2006).

    Where a weight is negative or no finite number, or a row has none that is positive, the first is -1 and nothing is drawn.
    """

    def make(b: Builder, isa: Isa, params: Sequence[Val]) -> None:
        state, out, n, given, cols = params[:5]
        zero, end = b.const(element, 0.0), b.const(element, math.inf)

        def weight(row: Val, i: Val) -> Val:
            return b.load(
                element, b.gep(given, element, b.add(b.mul(row, cols), i)), _SIZE[element]
            )

        with b.loop(b.i64(0), n, 1, [b.const("i1", True)]) as row:
            right, some = row.carried[0], b.const("i1", False)
            with b.loop(b.i64(0), cols, 1, [right, some]) as each:
                p = weight(row.i, each.i)
                usual = b.bin("and", b.fcmp("oge", p, zero), b.fcmp("olt", p, end))
                positive = b.fcmp("ogt", p, zero)
                each.next(
                    b.bin("and", each.carried[0], usual), b.bin("or", each.carried[1], positive)
                )
            row.next(b.bin("and", *each.results))
        b.store(b.i64(-1), out, 8)
        with b.if_then(row.results[0]), b.loop(b.i64(0), n) as line:
            with b.loop(b.i64(0), cols, 1, [b.const(element, -1.0), b.i64(0)]) as each:
                best, place = each.carried
                log = b.call("log1p", "double", [b.fneg(_draw(b, state))])
                waiting = b.fneg(log if element == "double" else b.conv("fptrunc", log, element))
                p = weight(line.i, each.i)
                race = b.bin("fdiv", p, waiting)
                first = b.bin("and", b.fcmp("ogt", race, best), b.fcmp("ogt", p, zero))
                each.next(b.select(first, race, best), b.select(first, each.i, place))
            b.store(each.results[1], b.gep(out, "i64", line.i), 8)

    return make


def _gammas(element: str) -> _Make:
    """Marsaglia and Tsang (2000), of shapes that are given, with a third in single precision."""
    third = 11184811 / 2**25  # float32(1 / 3)

    def make(b: Builder, isa: Isa, params: Sequence[Val]) -> None:
        state, out, n, given = params[:4]

        def c(x: float) -> Val:
            return b.const("double", x)

        def mul(x: Val, *others: Val) -> Val:
            for y in others:
                x = b.bin("fmul", x, y)
            return x

        def double(x: Val) -> Val:
            return x if element == "double" else b.conv("fpext", x, "double")

        with b.loop(b.i64(0), n) as each:
            a = b.load(element, b.gep(given, element, each.i), _SIZE[element])
            zero, one = b.const(element, 0.0), b.const(element, 1.0)
            edge = b.select(b.fcmp("oeq", a, zero), c(TINY[element]), c(math.nan))
            with b.if_then(b.fcmp("ogt", a, zero), [edge]) as usual:
                small = b.fcmp("olt", a, one)
                larger = b.select(small, b.bin("fadd", a, one), a)
                d = double(b.bin("fsub", larger, b.const(element, third)))
                with b.if_then(small, [c(1.0)]) as root:
                    power = double(b.bin("fdiv", one, a))
                    base = b.bin("fsub", c(1.0), _draw(b, state))
                    root.set(b.call("pow", "double", [base, power]))
                slope = b.bin("fdiv", c(1.0), b.intrinsic("sqrt", mul(c(9.0), d)))
                with b.repeat([]) as trial:
                    with b.repeat([]) as positive:
                        x = _draw(b, state, "normal")
                        y = b.bin("fadd", c(1.0), mul(slope, x))
                        positive.again = b.fcmp("ole", y, c(0.0))
                    v, xx = mul(y, y, y), mul(x, x)
                    w = b.bin("fsub", c(1.0), _draw(b, state))
                    below = b.bin("fsub", c(1.0), mul(c(0.0331), xx, xx))
                    with b.if_then(b.fcmp("oge", w, below), [b.const("i1", False)]) as close:
                        log = b.bin("fadd", b.bin("fsub", c(1.0), v), b.call("log", "double", [v]))
                        bound = b.bin("fadd", mul(c(0.5), xx), mul(d, log))
                        close.set(b.fcmp("oge", b.call("log", "double", [w]), bound))
                    trial.again = close.results[0]
                r = mul(root.results[0], d, v)
                usual.set(b.select(b.fcmp("olt", r, c(TINY[element])), c(TINY[element]), r))
            _put(b, usual.results[0], out, each.i, element)

    return make


for _element in _SIZE:
    _KERNELS[f"gamma_{_element}"] = _gammas(_element)
    _KERNELS[f"chosen_{_element}"] = _chosen(_element)
    _KERNELS[f"bernoulli_{_element}"] = _trials(_element)


@_kernel("shares")
def _shares(b: Builder, isa: Isa, params: Sequence[Val]) -> None:
    """Gamma numbers, each by the sum of its row of `cols`, which is taken one after the other."""
    _gammas("double")(b, isa, params)
    out, n, cols = params[1], params[2], params[4]
    with b.loop(b.i64(0), b.bin("sdiv", n, cols)) as row:
        line = b.gep(out, "double", b.mul(row.i, cols))
        with b.loop(b.i64(0), cols, 1, [b.const("double", 0.0)]) as each:
            x = b.load("double", b.gep(line, "double", each.i), 8)
            each.next(b.bin("fadd", each.carried[0], x))
        with b.loop(b.i64(0), cols) as i:
            place = b.gep(line, "double", i.i)
            b.store(b.bin("fdiv", b.load("double", place, 8), each.results[0]), place, 8)


# ---------------------------------------------------------------- from Python


def _functions(names: Sequence[str]) -> bool:
    """Tell the JIT where the C library's functions are; False where it has them elsewhere."""
    import llvmlite.binding as llvm

    try:
        library = ctypes.CDLL("ucrtbase" if os.name == "nt" else None)
        for name in names:
            llvm.add_symbol(name, ctypes.cast(getattr(library, name), ctypes.c_void_p).value)
    except (OSError, AttributeError):
        return False
    return True


@functools.cache
def functions(isa: Isa) -> dict[str, Callable]:
    """The kernels by name, as functions of state, out, n, given, cols and rows that give `out`; of arrays, nobody checks anything."""
    if not _functions(_LIBRARY):
        return {}
    module = Module()
    for name, make in _HELPERS.items():
        module.helper(name, make)
    symbols = {name: f"draw_{name}_{isa.name}" for name in (*_KERNELS, *twister.KINDS)}
    for name, make in _KERNELS.items():
        b = module.function(symbols[name], _PARAMS)
        make(b, isa, b.params)
        b.ret()
    for kind in twister.KINDS:
        twister.kernel(module, symbols[kind], kind, "fill_words", _PARAMS)
    lookup = jit.build([module.text()], isa)
    call = direct(tuple(kind for kind, _ in _PARAMS), result=1, count=2)
    return {name: call(lookup(symbol)) for name, symbol in symbols.items()}
