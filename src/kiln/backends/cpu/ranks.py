"""Short rows in order: each element goes where as many others come before it, which vectors count."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from ...runtime.calls import direct
from . import jit
from .ir import Builder, Module, Val, vec
from .isa import Isa, make_isa
from .rows import ELEMENT

LONGEST = 1 << 7
"""Elements of a row up to which counting them all for each is quicker than sorting."""
_WORD = {"float": "i32", "double": "i64"}
_PARAMS = ["values", "places", "rows", "source", "cols", "k", "largest"]
_KINDS = ("ptr", "ptr", "i64", "ptr", "i64", "i64", "i64")


def _keys(b: Builder, x: Val, largest: Val) -> Val:
    """Integers in the order of floats: zeros are equal, and so are NaN, above all else; reversed where the largest come first."""
    word = vec(_WORD[x.elem], x.lanes)
    bits = 32 if x.elem == "float" else 64
    top = b.const(word, 2 ** (bits - 1) - 1)
    raw = b.bitcast(b.bin("fadd", x, b.const(x.ty, 0.0)), word)  # -0 + 0 is 0
    below = b.icmp("slt", raw, b.const(word, 0))
    key = b.select(below, b.bin("xor", raw, top), raw)
    key = b.select(b.fcmp("uno", x, x), top, key)
    return b.bin("xor", key, b.splat(b.sub(b.const(_WORD[x.elem], 0), largest), x.lanes))


def _kernel(b: Builder, isa: Isa, element: str, size: int) -> None:
    values, places, rows, source, cols, k, largest = b.params
    word, lanes = _WORD[element], isa.lanes(size)
    scratch = b.emit("ptr", f"alloca [{LONGEST + lanes} x {word}], align 64")
    wide = vec(word, lanes)
    flag = largest if word == "i64" else b.conv("trunc", largest, word)
    last = b.const(wide, 2 ** (8 * size - 1) - 1)
    with b.loop(b.i64(0), rows) as row:
        line = b.gep(source, element, b.mul(row.i, cols))
        with b.loop(b.i64(0), cols) as each:
            x = b.load(element, b.gep(line, element, each.i), size)
            b.store(_keys(b, x, flag), b.gep(scratch, word, each.i), size)
        b.store(
            last, b.gep(scratch, word, cols), size
        )  # behind the row nothing comes before any other
        with b.loop(b.i64(0), cols) as each:
            own = b.load(word, b.gep(scratch, word, each.i), size)
            key, place = b.splat(own, lanes), b.splat(_cast(b, each.i, word), lanes)
            with b.loop(b.i64(0), cols, lanes, [b.const(wide, 0)]) as other:
                there = b.load(wide, b.gep(scratch, word, other.i), size)
                at = b.add(b.splat(_cast(b, other.i, word), lanes), b.iota(word, lanes))
                equal = b.bin("and", b.icmp("eq", there, key), b.icmp("slt", at, place))
                before = b.bin("or", b.icmp("slt", there, key), equal)
                other.next(b.add(other.carried[0], b.conv("zext", before, word)))
            name = f"llvm.vector.reduce.add.v{lanes}{word}"
            rank = b.call(name, word, [other.results[0]])
            rank = rank if word == "i64" else b.conv("zext", rank, "i64")
            with b.if_then(b.icmp("slt", rank, k)):
                to = b.add(b.mul(row.i, k), rank)
                x = b.load(element, b.gep(line, element, each.i), size)
                b.store(x, b.gep(values, element, to), size)
                b.store(each.i, b.gep(places, "i64", to), 8)


def _cast(b: Builder, i: Val, word: str) -> Val:
    return i if word == "i64" else b.conv("trunc", i, word)


@lru_cache(16)
def function(d: np.dtype, isa_name: str | None) -> Callable:
    """`call(values, places, rows, source, cols, k, largest)`, where arrays are C-contiguous and a row has LONGEST elements at most.

    The first k of each row in stable order, and where they were: as `topk` gives them of C-contiguous rows.
    """
    isa, (element, size) = make_isa(isa_name), ELEMENT[d]
    module, symbol = Module(), f"ranks_{element}_{isa.name}"
    b = module.function(symbol, list(zip(_KINDS, _PARAMS, strict=True)))
    _kernel(b, isa, element, size)
    b.ret()
    return direct(_KINDS, result=0, count=2)(jit.build([module.text()], isa)(symbol))
