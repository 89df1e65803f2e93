"""Drawing random numbers: new tensors of them, tensors filled with them, draws with given probabilities."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..device import as_device, places
from ..errors import KilnError, KilnNotImplementedError, KilnTypeError, describe
from ..meta import makes, makes_like, without_data
from ..random import Generator, default_generator
from ..shape import Size, broadcast_shapes
from ..tensor import CAPTURING, PLAIN, Tensor, active_capture, wrap
from . import mersenne
from .complex import view_as_complex, view_as_real
from .creation import _finish, _placed, _size, arange_op, empty_like, full_op
from .random import LAWS, reached
from .registry import FUNCTIONS, Sample, composition, method
from .rules import zero_gradient
from .selection import where_op
from .sorting import topk

FEW = 16
"""Probabilities that are looked at one by one sooner than by NumPy."""


def sample(generator: Generator | None, law: str, size: Sequence[int], dtype: dt.dtype, *numbers: Any,
           parameters: Sequence[Tensor] = ()) -> Tensor:  # fmt: skip
    """Numbers of a law, by the generator's stream."""
    if CAPTURING and getattr(active_capture(), "valueless", False):
        return full_op(tuple(size), 0, dtype)
    if parameters and any(p.is_meta for p in parameters):
        return full_op(tuple(size), 0, dtype).to("meta")
    g = default_generator if generator is None and not CAPTURING else reached(generator)
    if g.stream == "torch":
        return mersenne.draws(g.state, law, size, dtype, parameters, numbers)
    return LAWS[law](generator, size, dtype, parameters, *numbers)


def sample_like(x: Tensor, generator: Generator | None, law: str, *numbers: Any, dtype: dt.dtype | None = None,
                parameters: Sequence[Tensor] = ()) -> Tensor:  # fmt: skip
    """Numbers of a law for each element of a tensor; PyTorch's stream goes along its memory."""
    a, d = x._a, dtype or x.dtype
    if a.__class__ is np.ndarray and a.flags.c_contiguous and not parameters:
        return sample(generator, law, a.shape, d, *numbers)
    shape = tuple(a.shape)
    if x.is_meta:
        return without_data(x, d.np)
    parameters = [p.expand(shape) for p in parameters]
    if x.is_contiguous() or reached(generator).stream != "torch":
        return sample(generator, law, shape, d, *numbers, parameters=parameters)
    strides = x.stride()
    order = sorted(range(len(shape)), key=lambda i: -strides[i] if shape[i] != 1 else 0)
    parameters = [p.permute(order) for p in parameters]
    r = sample(generator, law, [shape[i] for i in order], d, *numbers, parameters=parameters)
    return r.permute([order.index(i) for i in range(len(order))])


def floating(name: str, d: dt.dtype) -> dt.dtype:
    """The dtype; an error where it is not a floating one."""
    if d.category != dt.FLOAT:
        raise KilnNotImplementedError(
            name, f"not implemented for {d.name}", d, "draw floats and convert them"
        )
    return d


def uniform(size: Sequence[int], dtype: dt.dtype, generator: Generator | None, name: str = "rand") -> Tensor:  # fmt: skip
    """Uniform numbers in [0, 1), complex ones in both parts."""
    if dtype.is_complex:
        return view_as_complex(uniform((*size, 2), dtype.to_real(), generator, name))
    return sample(generator, "uniform", size, floating(name, dtype), 0.0, 1.0)


def gaussian(size: Sequence[int], dtype: dt.dtype, generator: Generator | None, name: str = "randn") -> Tensor:  # fmt: skip
    """Standard normal numbers; complex ones have the variance 1 in both parts together."""
    if dtype.is_complex:
        parts = sample(generator, "normal", (*size, 2), dtype.to_real(), 0.0, math.sqrt(0.5), True)
        return view_as_complex(parts)
    return sample(generator, "normal", size, floating(name, dtype), 0.0, 1.0, True)


# ---------------------------------------------------------------- new tensors


def _checked(name: str, size: Sequence[int]) -> Any:
    return _size(tuple(size), None, name)


def _like(
    input: Tensor, d: dt.dtype, format: Any, make: Callable, fill: Callable[[Tensor], Tensor]
) -> Tensor:
    """New numbers that lie in memory as `input` does, or in a given format."""
    if format is None and input.is_contiguous():
        return make()
    return fill(empty_like(input, dtype=d, memory_format=format))


def _of_size(name: str, make: Callable, fill: str, doc: str, law: str, *numbers: Any) -> Callable:
    @makes
    def new(*size: Any, generator: Generator | None = None, out: Tensor | None = None, dtype: Any = None,
            layout: Any = None, device: Any = None, requires_grad: bool = False, pin_memory: bool = False,
            **named: Any) -> Tensor:  # fmt: skip
        as_device(device)
        if not size and "size" not in named:
            raise KilnTypeError(name, "a size is missing", "()", f"e.g. kiln.{name}(2, 3)")
        shape = _size(size, named.pop("size", None), name)
        if named:
            raise KilnTypeError(
                name, "unexpected argument", ", ".join(named), "see its documentation"
            )
        d = dt.get_default_dtype() if dtype is None else dt.as_dtype(dtype)
        r = make(shape, d, generator, name)
        return _placed(arange_op, r, requires_grad, out)

    @makes_like
    def like(input: Tensor, *, generator: Generator | None = None, dtype: Any = None, layout: Any = None,
             device: Any = None, requires_grad: bool = False, memory_format: Any = None,
             pin_memory: bool = False) -> Tensor:  # fmt: skip
        as_device(device)
        d = input.dtype if dtype is None else dt.as_dtype(dtype)
        r = _like(
            input, d, memory_format,
            lambda: make(input._a.shape, d, generator, name + "_like"),
            lambda x: getattr(x, fill)(generator=generator),
        )  # fmt: skip
        return _finish(r, requires_grad)

    def briefly(*size: Any, **named: Any) -> Tensor:
        if not (named or CAPTURING or places.stack):
            shape = size[0] if len(size) == 1 and size[0].__class__ in _SIZES else size
            for s in shape:
                if s.__class__ is not int or s < 0:
                    break
            else:
                r = mersenne.plain(law, tuple(shape), dt.get_default_dtype(), numbers)
                if r is not None:
                    return r
        return new(*size, **named)

    def briefly_like(input: Tensor, **named: Any) -> Tensor:
        if not (named or CAPTURING or places.stack) and input.__class__ in PLAIN:
            a = input._a
            if a.__class__ is np.ndarray and a.flags.c_contiguous:
                r = mersenne.plain(law, a.shape, dt.OF_NUMPY[a.dtype], numbers)
                if r is not None:
                    return r
        return like(input, **named)

    for brief, fn in ((briefly, new), (briefly_like, like)):
        functools.update_wrapper(brief, fn)
    briefly.__name__, briefly.__doc__ = name, doc + " of a given size, default dtype float."
    briefly_like.__name__ = name + "_like"
    briefly_like.__doc__ = doc + " with the size and dtype of `input`."
    FUNCTIONS[name], FUNCTIONS[briefly_like.__name__] = briefly, briefly_like
    return briefly


_SIZES = {tuple, list, Size}
rand = _of_size("rand", uniform, "uniform_", "Uniform numbers in [0, 1)", "uniform", 0.0, 1.0)
randn = _of_size(
    "randn",
    gaussian,
    "normal_",
    "Normal numbers of mean 0 and variance 1",
    "normal",
    0.0,
    1.0,
    True,
)


def _check_range(d: dt.dtype, low: int, high: int) -> None:
    if low >= high:
        raise KilnError(
            "random_",
            f"expects 'from' to be less than 'to', but got from={low} >= to={high}",
            f"[{low}, {high})",
            "",
        )
    if d.category in (dt.BOOL, dt.INT) and not (
        d is dt.int64 and low >= -(2**63) and high <= 2**63
    ):
        first, last = (0, 1) if d is dt.bool_ else (dt.iinfo(d).min, dt.iinfo(d).max)
        if not (first <= low and high - 1 <= last):
            raise KilnError(
                "random_",
                f"bounds are out of range for {d.name}",
                f"[{low}, {high})",
                f"{first} to {last}",
            )


def _bounds(args: tuple, named: dict[str, Any]) -> tuple[int, int, Any]:
    """What `randint` was given: low, 0 unless named, high and size."""
    if not named and len(args) in (2, 3) and isinstance(args[-1], list | tuple):
        return (
            (0, int(args[0]), args[1]) if len(args) == 2 else (int(args[0]), int(args[1]), args[2])
        )
    names = (
        ("low", "high", "size")
        if len(args) + ("size" in named) == 3 or ("high" in named and len(args) == 1)
        else ("high", "size")
    )
    given = dict(zip(names, args, strict=False)) | named
    if (
        not isinstance(given.get("size"), list | tuple)
        or len(args) > 3
        or not given.keys() <= {"low", "high", "size"}
    ):
        raise KilnTypeError(
            "randint",
            "an invalid combination of arguments",
            describe(args),
            "randint(low, high, (2, 3))",
        )
    return int(given.get("low", 0)), int(given["high"]), given["size"]


@makes
def randint(*args: Any, generator: Generator | None = None, out: Tensor | None = None, dtype: Any = None,
            layout: Any = None, device: Any = None, requires_grad: bool = False, pin_memory: bool = False,
            **named: Any) -> Tensor:  # fmt: skip
    """Uniform integers: `randint(high, size)` in [0, high) or `randint(low, high, size)` in [low, high)."""
    as_device(device)
    low, high, size = _bounds(args, named)
    d = dt.int64 if dtype is None else dt.as_dtype(dtype)
    size = _checked("randint", size)
    _check_range(d, low, high)
    r = sample(generator, "integers", size, d, low, high)
    return _placed(arange_op, r, requires_grad, out)


@makes_like
def randint_like(input: Tensor, low: int, high: int | None = None, *, generator: Generator | None = None,
                 dtype: Any = None, layout: Any = None, device: Any = None, requires_grad: bool = False,
                 memory_format: Any = None, pin_memory: bool = False) -> Tensor:  # fmt: skip
    """Uniform integers in [low, high), or [0, low), with the size and dtype of `input`."""
    as_device(device)
    bounds = (0, low) if high is None else (low, high)
    d = input.dtype if dtype is None else dt.as_dtype(dtype)
    low, high = map(int, bounds)
    _check_range(d, low, high)
    r = _like(
        input, d, memory_format,
        lambda: sample(generator, "integers", input._a.shape, d, low, high),
        lambda x: x.random_(low, high, generator=generator),
    )  # fmt: skip
    return _finish(r, requires_grad)


@makes
def randperm(n: int, *, generator: Generator | None = None, out: Tensor | None = None, dtype: Any = dt.int64,
             layout: Any = None, device: Any = None, requires_grad: bool = False, pin_memory: bool = False) -> Tensor:  # fmt: skip
    """The integers from 0 to n - 1 in random order."""
    as_device(device)
    (n,) = _checked("randperm", (n,))
    r = sample(generator, "permutation", (n,), dt.as_dtype(dtype))
    return _placed(arange_op, r, requires_grad, out)


@makes
def normal(mean: Any = 0.0, std: Any = 1.0, size: Any = None, *, generator: Generator | None = None,
           out: Tensor | None = None, dtype: Any = None, layout: Any = None, device: Any = None,
           requires_grad: bool = False, pin_memory: bool = False) -> Tensor:  # fmt: skip
    """Normal numbers with given mean and standard deviation: tensors that broadcast, or numbers and a size."""
    as_device(device)
    tensors = [x for x in (mean, std) if isinstance(x, Tensor)]
    if size is None and not tensors:
        raise KilnTypeError(
            "normal",
            "numbers as mean and std need a size",
            f"{mean}, {std}",
            "normal(0.0, 1.0, (2, 3))",
        )
    if not isinstance(std, Tensor) and std < 0:
        raise KilnError("normal", f"normal expects std >= 0.0, but found std {std}", std, "")
    if tensors:
        shape = broadcast_shapes(*[x.shape for x in tensors], op="normal")
        d = tensors[0].dtype
        mean, std = (x.detach() if isinstance(x, Tensor) else x for x in (mean, std))
    else:
        shape = _size((size,), None, "normal")
        d = dt.get_default_dtype() if dtype is None else dt.as_dtype(dtype)
    if tensors or d.is_complex:
        r = gaussian(shape, d, generator, "normal") * std + mean
    else:
        r = sample(generator, "normal", shape, floating("normal", d), float(mean), float(std), True)
    return _placed(arange_op, r, requires_grad, out)


for _fn in (randint, randint_like, randperm, normal):
    FUNCTIONS[_fn.__name__] = _fn


# ---------------------------------------------------------------- in place


def _fill(fn: Callable) -> Callable:
    """Bind `fn(self, …)`, which gives new values, as a method that stores them in self."""

    def into(self: Tensor, *args: Any, generator: Generator | None = None, **kwargs: Any) -> Tensor:
        return self.copy_(fn(self, generator, *args, **kwargs))

    into.__name__, into.__doc__ = fn.__name__.removeprefix("_"), fn.__doc__
    return method(into.__name__)(into)


def demand(name: str, ok: Any, what: str, received: Any) -> None:
    """An error about an argument unless all is well."""
    if not ok:
        received = describe(received) if isinstance(received, Tensor) else received
        raise KilnError(name, what, received, "see its documentation")


@_fill
def _uniform_(
    self: Tensor, generator: Any, a: float = 0.0, b: float = 1.0, **bounds: float
) -> Tensor:
    """Fill with uniform numbers in [from, to)."""
    low, high = bounds.get("from", a), bounds.get("to", b)
    demand(
        "uniform_",
        low <= high,
        f"expects to return a [from, to) range, but found from={low} > to={high}",
        (low, high),
    )
    if self.is_complex():
        return view_as_complex(_uniform_like(view_as_real(self), generator, low, high))
    floating("uniform_", self.dtype)
    return _uniform_like(self, generator, low, high)


def _uniform_like(x: Tensor, generator: Any, low: float, high: float) -> Tensor:
    return sample_like(x, generator, "uniform", float(low), float(high))


@_fill
def _normal_(self: Tensor, generator: Any, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Fill with normal numbers."""
    demand("normal_", std >= 0, f"expects std >= 0.0, but found std {std}", std)
    if self.is_complex():
        parts = view_as_real(self)
        std = std * math.sqrt(0.5)
        return view_as_complex(
            sample_like(parts, generator, "normal", float(mean), std, parts.is_contiguous())
        )
    floating("normal_", self.dtype)
    return sample_like(self, generator, "normal", float(mean), float(std), self.is_contiguous())


@_fill
def _log_normal_(self: Tensor, generator: Any, mean: float = 1.0, std: float = 2.0) -> Tensor:
    """Fill with exponentials of normal numbers."""
    demand("log_normal_", std > 0, f"expects std > 0.0, but found std={std}", std)
    floating("log_normal_", self.dtype)
    return sample_like(self, generator, "log_normal", float(mean), float(std))


@_fill
def _exponential_(self: Tensor, generator: Any, lambd: float = 1.0) -> Tensor:
    """Fill with exponentially distributed numbers of rate lambd."""
    demand("exponential_", lambd > 0, f"expects lambda > 0.0, but found lambda={lambd}", lambd)
    if self.dtype.category != dt.FLOAT:
        raise KilnError(
            "exponential_", "dtype must be a floating point", describe(self), "use a float tensor"
        )
    return sample_like(self, generator, "exponential", float(lambd))


@_fill
def _cauchy_(self: Tensor, generator: Any, median: float = 0.0, sigma: float = 1.0) -> Tensor:
    """Fill with numbers of the Cauchy distribution."""
    demand("cauchy_", sigma > 0, f"expects sigma > 0.0, but found sigma={sigma}", sigma)
    if self.dtype.category != dt.FLOAT:
        raise KilnError(
            "cauchy_", "dtype must be a floating point", describe(self), "use a float tensor"
        )
    return sample_like(self, generator, "cauchy", float(median), float(sigma))


@_fill
def _geometric_(self: Tensor, generator: Any, p: float) -> Tensor:
    """Fill with the number of trials, each a success with probability p, up to the first success."""
    demand("geometric_", 0 < p < 1, f"expects p to be in (0, 1), but got p={p}", p)
    return sample_like(self, generator, "geometric", float(p))


@_fill
def _random_(
    self: Tensor, generator: Any, a: int | None = None, b: int | None = None, **bounds: int
) -> Tensor:
    """Fill with uniform integers: in [from, to), in [0, to), or as many as the dtype holds exactly."""
    low, high = bounds.get("from", a), bounds.get("to", b)
    if low is None and high is None:
        return sample_like(self, generator, "all_integers")
    if high is None:
        low, high = 0, low
    low, high = int(low or 0), int(high)  # type: ignore[arg-type]
    _check_range(self.dtype, low, high)
    return sample_like(self, generator, "integers", low, high)


# ---------------------------------------------------------------- draws with given probabilities


def _check_trials(name: str, p: Any) -> None:
    if not isinstance(p, Tensor):
        demand(name, 0 <= p <= 1, f"bernoulli_ expects p to be in [0, 1], but got p={p}", p)
    elif active_capture() is None and not p.is_meta:
        a = p._host(name)
        few = a.size <= FEW and a.dtype.kind == "f"
        ok = all(0 <= x <= 1 for x in a.ravel().tolist()) if few else ((a >= 0) & (a <= 1)).all()
        demand(name, bool(ok), "expects probabilities in [0, 1]", p)


@composition(samples=lambda: iter([
    Sample((np.array([0.0, 1.0]),), grad=False), Sample((np.array([1.5]),), error=RuntimeError),
    Sample((np.array([1]),), error=NotImplementedError), Sample((np.zeros(2), 1.0), grad=False),
]))  # fmt: skip
def bernoulli(
    input: Tensor,
    p: float | None = None,
    *,
    generator: Generator | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """1 with the probability that `input` (or p) gives, else 0."""
    if p is None:
        floating("bernoulli", input.dtype)
    _check_trials("bernoulli", input if p is None else p)
    r = (
        sample(generator, "bernoulli", input._a.shape, input.dtype, parameters=[input.detach()])
        if p is None
        else sample_like(input, generator, "bernoulli", float(p))
    )
    return _placed(full_op, zero_gradient(r, input), False, out)


@_fill
def _bernoulli_(self: Tensor, generator: Any, p: Any = 0.5) -> Tensor:
    """Fill with 1 with probability p (a number or a tensor that broadcasts), else 0."""
    _check_trials("bernoulli_", p)
    if isinstance(p, Tensor):
        return sample_like(self, generator, "bernoulli", parameters=[p.detach()])
    return sample_like(self, generator, "bernoulli", float(p))


def _check_weights(input: Tensor, num_samples: int, replacement: bool) -> bool:
    """Errors for what can't be drawn from; whether all weights are known to be positive."""
    a = input._a
    if not CAPTURING and a.__class__ is np.ndarray and 0 < a.size <= FEW and a.dtype.kind == "f":
        n = a.ndim
        rows = a.tolist() if n == 2 else [a.tolist()]
        if 1 <= n <= 2 and num_samples > 0 and (replacement or num_samples <= a.shape[-1]):
            least = min([x if 0 <= x < math.inf else -1 for row in rows for x in row])
            if least > 0 or (least == 0 and all(map(any, rows))):
                return least > 0
    n = len(input.shape)
    demand("multinomial", 1 <= n <= 2, "prob_dist must be 1 or 2 dim", input)
    demand(
        "multinomial",
        input.is_floating_point(),
        "only supports floating-point dtypes for input",
        input,
    )
    demand("multinomial", num_samples > 0, "cannot sample n_sample <= 0 samples", num_samples)
    demand("multinomial", replacement or num_samples <= input.shape[-1],
            "cannot sample n_sample > prob_dist.size(-1) samples without replacement", num_samples)  # fmt: skip
    if active_capture() is not None or input.is_meta:
        return False
    weights = input._host("multinomial")
    if not weights.size:
        return False
    most, least = np.maximum.reduce(weights, -1), np.minimum.reduce(weights, None)
    if n == 2:
        most, smallest = np.maximum.reduce(most), np.minimum.reduce(most)
    else:
        smallest = most
    demand(
        "multinomial",
        least >= 0 and most < math.inf,  # neither holds of NaN
        "probability tensor contains either `inf`, `nan` or element < 0",
        input,
    )
    demand(
        "multinomial",
        smallest > 0,
        "invalid multinomial distribution (sum of probabilities <= 0)",
        input,
    )
    return bool(least > 0)


@composition(samples=lambda: iter([
    Sample((np.array([0.0, 1.0]), 1), grad=False), Sample((np.ones(3), 4), error=RuntimeError),
    Sample((np.array([[0.0, 1.0], [2.0, 0.0]]), 3, True), grad=False), Sample((np.zeros(3), 1), error=RuntimeError),
    Sample((np.array([-1.0, 2.0]), 1), error=RuntimeError), Sample((np.ones(3, np.int64), 1), error=RuntimeError),
]))  # fmt: skip
def multinomial(input: Tensor, num_samples: int, replacement: bool = False, *, generator: Generator | None = None,
                out: Tensor | None = None) -> Tensor:  # fmt: skip
    """Indices of categories drawn with probabilities proportional to each row of `input`."""
    if (
        num_samples.__class__ is int and num_samples == 1 and not CAPTURING and out is None
        and input.__class__ in PLAIN and (a := input._a).__class__ is np.ndarray
        and (generator is None or generator.__class__ is Generator)
        and (drawn := mersenne.chosen(generator, a)) is not None
    ):  # fmt: skip
        return wrap(drawn)
    positive = _check_weights(input, num_samples, replacement)
    p = input.detach()
    if replacement and num_samples > 1:
        size = (*p._a.shape[:-1], num_samples)
        r = sample(generator, "multinomial", size, dt.int64, parameters=[p])
    else:  # the order of p / exponential is a draw without replacement (Efraimidis, Spirakis 2006)
        if reached(generator).stream != "torch":
            p = p.double()
        waiting = sample(generator, "exponential", p._a.shape, p.dtype, 1.0)
        race = p / waiting if positive else where_op(p > 0, p / waiting, -1.0)
        if num_samples > 1:
            r = topk(race, num_samples)[1]
        elif not CAPTURING and race._a.__class__ is np.ndarray and race._a.dtype.kind == "f":
            r = wrap(race._a.argmax(-1, keepdims=True))
        else:
            r = race.argmax(-1, keepdim=True)
    if out is not None and out.dtype is not dt.int64:
        raise KilnError("multinomial", "expects an int64 tensor as out=", describe(out), "")
    return _placed(full_op, r, False, out)
