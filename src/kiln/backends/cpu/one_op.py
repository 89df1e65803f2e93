"""Programs of one call: how eager mode runs what has kernels written for their shapes.

A call is an op's, or any function written in ops, such as a gradient rule: it is traced with symbolic
tensors in place of its arrays, and what comes of it is lowered like any other Graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import prod
from threading import get_ident
from typing import Any

import numpy as np

from ... import dtypes as dt
from ...autograd.modes import no_grad
from ...compile import pipeline, views
from ...compile.capture import Capture
from ...config import config
from ...graph.node import INPUT, Graph, Leaf, Node, input_node
from ...runtime.blocks import allocator
from ...runtime.forks import own_lock
from ...tensor import Tensor
from . import fuse
from .lower import is_host, lowers
from .program import CpuProgram, Room, bytes_of, recipe_of
from .recipe import Host, Recipe

_MOST = 4096  # calls that are kept in mind
_OFTEN = 32  # times that a call must come, where others like it have come in too many sizes
_TWICE = 1 << 11  # elements that are computed twice sooner than in a call of their own


class Made:
    """What a call was made into: its Recipe and the Program in the arena as it is.

    `results` says of each result what it is: "made" by the Program, the "first" array given, or "none".
    """

    __slots__ = ("name", "program", "recipe", "results")

    def __init__(self, name: str, recipe: Recipe, results: tuple[str, ...]):
        self.name, self.recipe, self.results = name, recipe, results
        self.program: CpuProgram | None = None

    def give(self, outputs: list[np.ndarray]) -> list:
        """All results, where the Program has given these."""
        if len(outputs) == len(self.results):
            return outputs
        found = iter(outputs)
        return [
            next(found) if r == "made" else FIRST if r == "first" else None for r in self.results
        ]


COPIES = {"copy", "full"}
"""Calls that are to copy what they are given."""
Like = Callable[[], Any] | None
"""Says what a call has in common with those of other sizes, asked where it is new; None where that is nothing."""
_LATE: Any = object()
"""What a call is made into that is not to be compiled yet."""
FIRST = object()
"""The result that is the first array which a call was given."""


class Shelf:
    """The Programs of calls seen before. One runs at a time, so they have one arena, as large as the largest's."""

    def __init__(self) -> None:
        self.made: dict[Any, Made | None] = {}
        self.ready: dict[Any, Callable | None] = {}  # prepared calls
        # calls that differ in nothing but sizes: in how many they were made, and how often others came
        self.alike: dict[Any, int] = {}
        self.late: dict[Any, int] = {}
        self.arena, self.size = Room(0), 0
        self.asking: set[int] = set()  # threads that want to know what a call would take
        self.sizes: dict[Any, int] = {}
        self.lock = own_lock(self)

    def room(self, call: Callable[[], Any]) -> int:
        """The bytes of the arena that a Program takes which `call` would run first; nothing is run, nor compiled."""
        me = get_ident()
        self.asking.add(me)
        try:
            call()
        except _Asked as e:
            return e.args[0]
        finally:
            self.asking.discard(me)
        return 0

    def run(
        self, name: str, fn: Callable, args: Sequence[Any], key: Any = (), like: Like = None
    ) -> list | None:
        """What a function of tensors gives for arrays, by a Program; None where it has no kernels, or not yet.

        `name` and `key` say which function it is: all that it reads besides its arguments. These are arrays,
        lists of arrays or plain values. Gives an array, FIRST or None for each tensor or None of its result. What is
        compiled is kept on disk. Bits are not the reference's, so whether a call comes here must depend on
        its shapes and dtypes alone, or on what Note [Sizes that change] says where there is something `like` it.
        """
        args = list(map(_in_place, args))
        with self.lock:
            made = self._find(name, fn, args, key, like)
            if made is None or made is _LATE:
                return None
            program = self._program(made)
            outputs = program.empty()
            program.whole(*_arrays(args), *outputs)
        return made.give(outputs)

    def run_blocks(
        self, name: str, fn: Callable, args: Sequence[Any], cut: Sequence[int], most: int, lead: tuple[int, ...],
        key: Any = (), into: np.ndarray | None = None, like: Like = None,
    ) -> list | None:  # fmt: skip
        """`run` for a function that treats each row by itself, on rows of the C-contiguous arrays `cut`.

        So Programs for some rows, a power of two and `most` at most, serve any number of them: the last block
        begins where it ends with the arrays. `lead` are the sizes that the rows of the results stand for.
        `into` is one of the arrays, which the one result of its shape and dtype is to overwrite.
        """
        n = len(args[cut[0]])
        blocks = blocks_of(n, most, args[cut[0]].size // n)
        if into is not None and sum(b for _, b in blocks) > n:
            return None  # what is done twice would be done to its own result
        if args[cut[0]].nbytes // n * min(n, most) >= fuse.STREAM_BYTES:
            return None  # a result written past the cache begins at 64 bytes, which a part of one need not
        outs: list[np.ndarray] = []
        with self.lock:
            calls = []  # all are found before one runs: what is overwritten can't be given back
            for start, block in blocks:
                part = slice(start, start + block)
                given = [a[part] if i in cut else a for i, a in enumerate(args)]
                made = self._find(name, fn, given, (key, block), like)
                if made is None or made is _LATE:
                    return None
                if into is not None and [r[1:] for r in self._program(made).results] != [
                    ((block, *into.shape[1:]), into.dtype)
                ]:
                    return None
                calls.append((part, given, made))
            if into is not None:
                outs = flat = [into]
            for part, given, made in calls:
                program, block = self._program(made), part.stop - part.start
                if not outs:
                    for _, shape, d in program.results:
                        if shape[:1] != (block,):
                            return None
                        whole = (*lead, *shape[1:])
                        outs.append(allocator(prod(whole) * d.itemsize)(whole, d))
                    flat = [
                        o.reshape(n, *r[1][1:]) for o, r in zip(outs, program.results, strict=True)
                    ]
                program.whole(*_arrays(given), *[o[part] for o in flat])
        return made.give(outs)

    def run_sums(
        self, name: str, fn: Callable, args: Sequence[Any], cut: Sequence[int], most: int, sums: Sequence[int],
        key: Any = (),
    ) -> list | None:  # fmt: skip
        """`run_blocks` for a function of rows whose results at `sums` are sums over all rows: blocks' sums are added."""
        n = len(args[cut[0]])
        outs: list[np.ndarray] = []
        with self.lock:
            calls = []
            for start, block in parts_of(n, most):
                given = [a[start : start + block] if i in cut else a for i, a in enumerate(args)]
                made = self._find(name, fn, given, (key, block, "sums"))
                if made is None or any(r == "first" for r in made.results):
                    return None
                calls.append((start, given, made))
            live = [i for i, r in enumerate(calls[0][2].results) if r == "made"]
            for k, (start, given, made) in enumerate(calls):
                program = self._program(made)
                if not outs:
                    for i, (_, shape, d) in zip(live, program.results, strict=True):
                        whole = (len(calls), *shape) if i in sums else (n, *shape[1:])
                        outs.append(allocator(prod(whole) * d.itemsize)(whole, d))
                parts = [
                    o[k] if i in sums else o[start : start + r[1][0]]
                    for i, o, r in zip(live, outs, program.results, strict=True)
                ]
                program.whole(*_arrays(given), *parts)
        alone = len(calls) == 1
        return calls[0][2].give([
            (o[0] if alone else np.add.reduce(o, axis=0)) if i in sums else o
            for i, o in zip(live, outs, strict=True)
        ])  # fmt: skip

    def fill(
        self, name: str, fn: Callable, calls: Sequence[tuple[Sequence[Any], Sequence[np.ndarray]]]
    ) -> bool:
        """`run` for several calls, into given arrays of C order; False where the first has no kernels."""
        with self.lock:
            for args, outs in calls:
                made = self._find(name, fn, args, "fill")
                if made is None:
                    return False
                self._program(made).whole(*_arrays(args), *outs)
        return True

    @staticmethod
    def later(*arrays: np.ndarray) -> None:
        """What `exact` gives for a call that is not to be compiled yet: it has no result."""

    def exact(
        self, name: str, fn: Callable, args: Sequence[Any], key: Any = (), like: Like = None
    ) -> Callable | None:
        """`run` of arguments like these, arrays of these strides and plain values, as a function of the arrays."""
        args = list(map(_in_place, args))
        with self.lock:
            made = self._find(name, fn, args, key, like)
            if made is _LATE:
                return self.later
            if made is None or any(r != "made" for r in made.results):
                return None
            makers = self._program(made).results
        plain = [a.__class__ is np.ndarray for a in args if a.__class__ in (np.ndarray, _Laid)]

        def call(*arrays: np.ndarray) -> list[np.ndarray]:
            outs = [make(shape, d) for make, shape, d in makers]
            given = [
                np.ascontiguousarray(a) if p and not a.flags.c_contiguous else a
                for a, p in zip(arrays, plain, strict=True)
            ]
            with self.lock:
                (made.program or self._program(made)).whole(*given, *outs)
            return outs

        return call

    def prepare(
        self, name: str, fn: Callable, args: Sequence[Any], cut: Sequence[int], most: int, shape: tuple[int, ...]
    ) -> Callable | None:  # fmt: skip
        """`run_blocks` of arguments like these as a function of the arrays at `cut` and then of all others.

        It gives the one result, of this shape. The arrays are C-contiguous, those at `cut` of any shape with as many elements.
        """
        n = len(args[cut[0]])
        row = args[cut[0]].size // n
        calls: list[tuple[int, int, Made]] = []
        with self.lock:
            for start, block in blocks_of(n, most, row):
                given = [a[start : start + block] if i in cut else a for i, a in enumerate(args)]
                made = self._find(name, fn, given, ((), block))
                if made is None or made.results != ("made",):
                    return None
                spec = self._program(made).results
                if len(spec) != 1 or prod(spec[0][1]) != block * row:
                    return None
                calls.append((start * row, (start + block) * row, made))
        d, whole, split = spec[0][2], calls[0][2], len(cut)

        empty = allocator(prod(shape) * d.itemsize)

        def once(*arrays: np.ndarray) -> np.ndarray:
            out = empty(shape, d)
            with self.lock:
                (whole.program or self._program(whole)).whole(*arrays, out)
            return out

        def parts(*arrays: np.ndarray) -> np.ndarray:
            out = empty(shape, d)
            flat = [*[a.reshape(-1) for a in arrays[:split]], out.reshape(-1)]
            with self.lock:
                for start, stop, made in calls:
                    *given, to = [a[start:stop] for a in flat]
                    (made.program or self._program(made)).whole(*given, *arrays[split:], to)
            return out

        return once if len(calls) == 1 else parts

    def rows(
        self, name: str, fn: Callable, arrays: Sequence[np.ndarray], most: int, key: Any = None, like: Like = None
    ) -> Callable | None:  # fmt: skip
        """`run_blocks` of arrays like these, all of which have rows, as a function of them that gives the one result."""
        n = len(arrays[0])
        calls: list[tuple[slice, Made]] = []
        with self.lock:
            for start, block in blocks_of(n, most, arrays[0].size // n):
                part = slice(start, start + block)
                made = self._find(name, fn, [a[part] for a in arrays], ("rows", key, block), like)
                if made is _LATE:
                    return self.later
                if made is None or made.results != ("made",):
                    return None
                calls.append((part, made))
            ((_, shape, d),) = self._program(made).results
        shape = (n, *shape[1:])
        empty = allocator(prod(shape) * d.itemsize)

        def once(*arrays: np.ndarray) -> np.ndarray:
            out = empty(shape, d)
            with self.lock:
                (made.program or self._program(made)).whole(*arrays, out)
            return out

        def parts(*arrays: np.ndarray) -> np.ndarray:
            out = empty(shape, d)
            with self.lock:
                for part, made in calls:
                    given = [a[part] for a in arrays]
                    (made.program or self._program(made)).whole(*given, out[part])
            return out

        return once if len(calls) == 1 else parts

    def change(
        self, name: str, fn: Callable, arrays: Sequence[np.ndarray], key: Any, own: Sequence[int]
    ) -> bool:
        """Run a function of tensors that writes some of them in place, as a Program; False where it has no kernels.

        The arrays are C-contiguous or all lie alike, and only the number of their elements counts: `own` of them
        are given to the function as rows of so many. `name` and `key` say which function it is.
        """
        with self.lock:
            try:
                made = self.made[key]
            except KeyError:
                if len(self.made) >= _MOST:
                    self.made = {}
                flat = [a.ravel("K") if i in own else a for i, a in enumerate(arrays)]
                made = self.made[key] = _make(name, fn, flat, writes=True)
            if made is None:
                return False
            (made.program or self._program(made)).whole(*arrays)
        return True

    def clear(self) -> None:
        """Forget all Programs, and let go of their memory."""
        with self.lock:
            self.made, self.ready, self.sizes = {}, {}, {}
            self.alike, self.late = {}, {}
            self.arena, self.size = Room(0), 0

    def _find(
        self, name: str, fn: Callable, args: Sequence[Any], more: Any, like: Like = None
    ) -> Made | None:
        """What a call is made into, compiled where it is new, at once unless its `like` come in many sizes."""
        key = (
            name, more, config.cpu_isa, config.float32_matmul_precision, config.layout, *map(_sign, args),
        )  # fmt: skip
        if self.asking and get_ident() in self.asking:
            if key not in self.sizes:
                self.sizes[key] = _make(name, fn, args, find=bytes_of) or 0
            raise _Asked(self.sizes[key])
        try:
            return self.made[key]
        except KeyError:
            if any(map(_without_data, args)):
                return (
                    None  # without data (Note [Meta tensors]), and not to be kept as part of a key
                )
            of = None if like is None else like()
            if of is not None and self._waits((name, of), key):
                return _LATE
            if len(self.made) >= _MOST:
                self.made = {}
            made = self.made[key] = _make(name, fn, args)
            return made

    # Note [Sizes that change]
    # Kernels that are written for one shape take a tenth of a second to compile, and NumPy some times as long as
    # they do to run. So of calls that are alike but for their sizes, such as those of a layer whose pictures or
    # sentences have a size of their own in each batch, the first `config.max_shapes` are compiled at once, and
    # any other once it has come often; with `config.deterministic`, all at once.

    def _waits(self, like: Any, key: Any) -> bool:
        """Whether a new call of this kind is not to be compiled yet."""
        n = self.alike.get(like, 0)
        if n < config.max_shapes or config.deterministic:
            self.alike[like] = n + 1
            return False
        if len(self.late) >= _MOST:
            self.late = {}
        self.late[key] = times = self.late.get(key, 0) + 1
        return times <= _OFTEN

    def _program(self, made: Made) -> CpuProgram:
        """The Program of a call, in the arena as it is."""
        if made.recipe.arena_bytes > self.size:
            for m in self.made.values():
                if m is not None:
                    m.program = None
            self.arena.free()  # programs that are no more may be in cycles, and hold it
            self.arena, self.size = Room(made.recipe.arena_bytes), made.recipe.arena_bytes
        if made.program is None:
            made.program = CpuProgram(made.recipe, made.name, self.arena)
        return made.program


class _Asked(BaseException):
    """What a call would take: ends it before it runs."""


@lru_cache(_MOST)
def blocks_of(n: int, most: int, row: int = 1) -> list[tuple[int, int]]:
    """Where blocks of n rows of so many elements begin, and how many they have: few sizes, and few rows done twice."""
    found, twice = [], max(n // 16, _TWICE // max(1, row))
    start, block = 0, 1 << min(n, most).bit_length() - 1
    while start < n:
        while start + block <= n:
            found.append((start, block))
            start += block
        rest = n - start
        while block >= 64 and block - rest > twice and rest:
            block //= 8
        if rest <= block:
            return [*found, (n - block, block)] if rest else found
    return found


@lru_cache(_MOST)
def parts_of(n: int, most: int) -> list[tuple[int, int]]:
    """Where blocks of powers of two, `most` at most, begin that together are n rows, and how many each has."""
    found, start = [], 0
    while start < n:
        block = 1 << min(n - start, most).bit_length() - 1
        found.append((start, block))
        start += block
    return found


class _Laid:
    """An array as kernels read it in place: a part of a dense one, its dimensions in another order or repeated.

    It begins where the dense one does, whose sizes are `pitch`, and has the first `sizes` of its elements along each
    dimension, which are its own of more than one element by descending strides.
    """

    __slots__ = ("array", "back", "pitch", "sizes", "turned")

    def __init__(
        self, array: np.ndarray, pitch: tuple[int, ...], sizes: tuple[int, ...], turned: tuple[int, ...],
        back: tuple[int, ...],
    ):  # fmt: skip
        self.array, self.pitch, self.sizes, self.turned, self.back = (
            array,
            pitch,
            sizes,
            turned,
            back,
        )

    def view(self, whole: Tensor) -> Tensor:
        """The array as a view of the dense one."""
        part = whole
        if self.sizes != self.pitch:
            part = whole[tuple(slice(n) for n in self.sizes)]
        return part.reshape(self.turned).permute(self.back).expand(self.array.shape)


def _laid(a: np.ndarray) -> Any:
    """An array as kernels read it in place; a copy where its dimensions do not lie one inside the other."""
    if a.flags.c_contiguous or a.size < 2:
        return a
    strides = a.strides
    once = tuple(s if t else 1 for s, t in zip(a.shape, strides, strict=True))
    order = sorted(range(a.ndim), key=lambda i: -strides[i])
    sizes, pitch, outer = [], [], 0
    for i in order:
        n, step = once[i], strides[i]
        if n == 1:
            continue
        if outer and (step <= 0 or outer % step or outer < n * step):
            return np.ascontiguousarray(a)
        pitch.append(outer // step if outer else n)
        sizes.append(n)
        outer = step
    if not sizes or outer != a.itemsize:
        outer = outer or a.itemsize
        if outer < 0 or outer % a.itemsize:
            return np.ascontiguousarray(a)
        pitch.append(outer // a.itemsize)
        sizes.append(1)
    turned = tuple([once[i] for i in order])
    back = tuple(sorted(range(a.ndim), key=order.__getitem__))
    return _Laid(a, tuple(pitch), tuple(sizes), turned, back)


def _in_place(x: Any) -> Any:
    """An argument as kernels read it."""
    return (
        _laid(x)
        if x.__class__ is np.ndarray
        else [*map(_in_place, x)]
        if x.__class__ is list
        else x
    )


def _arrays(args: Sequence[Any]) -> list[np.ndarray]:
    """The arrays among arguments, in order."""
    found: list[np.ndarray] = []
    for a in args:
        if a.__class__ is np.ndarray:
            found.append(a)
        elif a.__class__ is _Laid:
            found.append(a.array)
        elif a.__class__ is list:
            found.extend(_arrays(a))
    return found


def _without_data(x: Any) -> bool:
    return any(map(_without_data, x)) if x.__class__ is list else hasattr(x, "calls")


def _sign(x: Any) -> Any:
    """What of an argument a Program is for; it tells 1, 1.0 and True apart."""
    c = x.__class__
    if c is np.ndarray:
        return x.shape, x.dtype.num
    if c is _Laid:
        return x.pitch, x.sizes, x.turned, x.back, x.array.shape, x.array.dtype.num
    if c is list or c is tuple:
        return c, *map(_sign, x)
    return (c, repr(x)) if c is float else (c, x)


def _make(
    name: str, fn: Callable, args: Sequence[Any], writes: bool = False, find: Callable = recipe_of
) -> Any:
    """What comes of a function on symbolic tensors; None where a reference would have to do some of it.

    With `writes` it gives nothing, and what it writes to its arguments is what comes of it. With `find=bytes_of`
    it is only asked what that takes.
    """
    capture = Capture(constants=True)
    inputs: list[Node] = []
    tensors: list[Tensor] = []

    def given(shape: tuple[int, ...], d: np.dtype) -> Tensor:
        inputs.append(input_node(len(inputs), shape, dt.OF_NUMPY[d]))
        tensors.append(capture.tensor(inputs[-1]))
        return tensors[-1]

    def symbolic(x: Any) -> Any:
        if isinstance(x, _Laid):
            return x.view(given(x.pitch, x.array.dtype))
        if isinstance(x, np.ndarray):
            return given(x.shape, x.dtype)
        return [symbolic(y) for y in x] if x.__class__ is list else x

    try:
        with capture.active(), no_grad():
            out = fn(*map(symbolic, args))
            if writes:
                return _changing(name, inputs, [capture.value(t) for t in tensors])
            outs = list(out) if isinstance(out, tuple | list) else [out]
            nodes = [capture.value(o) for o in outs if isinstance(o, Tensor)]
    except Exception:
        return None  # it reads values or what only arrays have, or its arguments are wrong: the reference tells
    if not nodes:
        return None
    final = pipeline.optimize(Graph(inputs, nodes), lowers, name).outputs
    made = [o for o, f in zip(nodes, final, strict=True) if f is not inputs[0]]
    if (name not in COPIES and all(map(_moves, final))) or any(
        map(is_host, Graph(inputs, final).nodes())
    ):
        return None
    recipe = find(Graph(inputs, made), name)
    if find is bytes_of:
        return recipe
    if any(isinstance(s, Host) for s in recipe.steps):
        return None
    first = iter(f is inputs[0] for f in final)
    kinds = ("none" if o is None else "first" if next(first) else "made" for o in outs)
    return Made(name, recipe, tuple(kinds))


def _changing(name: str, inputs: list[Node], values: list[Node]) -> Made | None:
    """A Program that stores these values in its inputs."""
    updates = [i for i, (old, new) in enumerate(zip(inputs, values, strict=True)) if old is not new]
    graph = Graph(inputs, [values[i] for i in updates], dict(enumerate(updates)))
    if any(map(is_host, pipeline.optimize(graph, lowers, name).nodes())):
        return None
    recipe = recipe_of(graph, name)
    return None if any(isinstance(s, Host) for s in recipe.steps) else Made(name, recipe, ())


def _moves(n: Node) -> bool:
    """Whether a result is an argument, a view of one, or something small that is repeated: NumPy copies nothing there."""
    root = views.view_root(n) if not isinstance(n.op, Leaf) else n
    return root.op is INPUT or root.numel() < n.numel()


shelf = Shelf()
