"""Views as copies: `view_copy`, `select_copy`, … have memory of their own. Loaded when first used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..formats import contiguous_format
from ..tensor import Tensor
from .registry import FUNCTIONS, METHODS, Sample, composition
from .samples import draw, rng


def _slice(
    input: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Tensor:
    return input[(slice(None),) * (dim % max(input.ndim, 1)) + (slice(start, end, step),)]


def _owned(r: Any) -> Any:
    if isinstance(r, Tensor):
        return r.clone(memory_format=contiguous_format)
    return tuple(map(_owned, r))


def _copy(
    name: str, fn: Callable, *calls: tuple, error: tuple | None = None, dtype: Any = float
) -> Callable:
    """`name_copy` of the function or method `name`, with an `out=` form."""

    def copied(input: Tensor, *args: Any, **kwargs: Any) -> Any:
        return _owned(fn(input, *args, **kwargs))

    def samples() -> Any:
        x = draw(rng(), (3, 4, 2)).astype(dtype) if name not in ("t",) else draw(rng(), (3, 4))
        for args in calls or ((),):
            yield Sample((x, *args))
        if error is not None:
            yield Sample((x, *error[0]), error=error[1])

    copied.__name__, copied.__doc__ = f"{name}_copy", f"`{name}` with memory of its own."
    return composition(method=False, out=True, samples=samples)(copied)


alias_copy = _copy("alias", lambda x: x)
as_strided_copy = _copy("as_strided", METHODS["as_strided"], ((2, 3), (2, 1), 1))
detach_copy = _copy("detach", Tensor.detach)
expand_copy = _copy(
    "expand", METHODS["expand"], ((5, 3, 4, 2),), error=(((2, 4, 2),), RuntimeError)
)
permute_copy = _copy(
    "permute", METHODS["permute"], ((2, 0, 1),), error=(((0, 0, 1),), RuntimeError)
)
select_copy = _copy("select", METHODS["select"], (1, -1), error=((3, 0), IndexError))
slice_copy = _copy("slice", _slice, (), (1, 0, 4, 2))
split_copy = _copy("split", METHODS["split"], (2,), (3, 1))
split_with_sizes_copy = _copy("split_with_sizes", FUNCTIONS["split_with_sizes"], ([1, 2],))
squeeze_copy = _copy("squeeze", METHODS["squeeze"], (), (1,))
t_copy = _copy("t", METHODS["t"])
transpose_copy = _copy("transpose", METHODS["transpose"], (0, 2), error=((0, 3), IndexError))
unbind_copy = _copy("unbind", METHODS["unbind"], (), (-1,))
unfold_copy = _copy("unfold", METHODS["unfold"], (1, 2, 1))
unsqueeze_copy = _copy("unsqueeze", METHODS["unsqueeze"], (1,), error=((5,), IndexError))
view_copy = _copy("view", METHODS["view"], ((4, 6),), ((-1,),), error=(((5, 5),), RuntimeError))
view_as_complex_copy = _copy("view_as_complex", FUNCTIONS["view_as_complex"])
view_as_real_copy = _copy("view_as_real", FUNCTIONS["view_as_real"], dtype=complex)
