"""Which sizes of a program's inputs may differ from the example's."""

from __future__ import annotations

from typing import Any

from ..errors import KilnAssertionError, KilnError, describe
from ..tensor import Tensor

INFINITY = 2**63 - 1


class _Hint:
    """What is asked of a size without a name."""

    def __init__(self, kind: str, least: int | None = None, most: int | None = None):
        self.kind, self.min, self.max = kind, least, most

    def __call__(self, min: int | None = None, max: int | None = None) -> _Hint:
        return _Hint(self.kind, min, max)

    def __repr__(self) -> str:
        return f"Dim.{self.kind}"


class Dim:
    """A size that may differ between calls, from `min` to `max`; the same in all places with its name.

    `2 * dim + 1` is one that follows from it. `Dim.AUTO` and `Dim.DYNAMIC` have no name; AUTO is static where the
    program needs it so. Errors: KilnAssertionError for a name that is none, or an empty range.
    """

    AUTO, DYNAMIC, STATIC = _Hint("AUTO"), _Hint("DYNAMIC"), _Hint("STATIC")

    def __init__(self, name: str, *, min: int | None = None, max: int | None = None):
        least, most = 0 if min is None else min, INFINITY if max is None else max
        if most <= least:
            raise KilnAssertionError(
                "export.Dim",
                f"Cannot create Dim with inconsistent min={min}, max={max}",
                name,
                "min < max",
            )
        if not name.isidentifier():
            raise KilnAssertionError(
                "export.Dim",
                f"Dim name must be a valid identifier, got {name}",
                repr(name),
                "Dim('batch')",
            )
        self.__name__, self.min, self.max = name, least, most

    root = property(lambda self: self)
    times, plus = 1, 0

    def size(self, of_root: int) -> int:
        """This size, where the named one is `of_root`."""
        return self.times * of_root + self.plus

    def _derived(self, times: int, plus: int) -> _DerivedDim:
        return _DerivedDim(self.root, times, plus)

    def __mul__(self, other: int) -> _DerivedDim:
        return self._derived(self.times * other, self.plus * other)

    def __add__(self, other: int) -> _DerivedDim:
        return self._derived(self.times, self.plus + other)

    def __sub__(self, other: int) -> _DerivedDim:
        return self._derived(self.times, self.plus - other)

    __rmul__, __radd__ = __mul__, __add__

    def __repr__(self) -> str:
        return f"Dim({self.__name__!r}, min={self.min}, max={self.max})"


class _DerivedDim(Dim):
    """A size that follows from a named one."""

    def __init__(self, root: Dim, times: int, plus: int):
        if times <= 0:
            raise KilnAssertionError(
                "export.Dim", f"Attempted to multiply {root} by {times}", times, "a positive number"
            )
        self._root, self.times, self.plus = root, times, plus
        end = f" {'+' if plus > 0 else '-'} {abs(plus)}" if plus else ""
        self.__name__ = (f"{times}*" if times != 1 else "") + root.__name__ + end
        self.min, self.max = (
            self.size(root.min),
            self.size(root.max) if root.max != INFINITY else INFINITY,
        )

    root = property(lambda self: self._root)


def dims(*names: str, min: int | None = None, max: int | None = None) -> tuple[Dim, ...]:
    """A `Dim` for each name."""
    return tuple(Dim(name, min=min, max=max) for name in names)


class ShapesCollection:
    """Dynamic sizes by tensor in place of by argument: `shapes[x] = {0: dim}`."""

    def __init__(self) -> None:
        self._shapes: dict[int, tuple[Tensor, Any]] = {}

    def __setitem__(self, t: Tensor, shape: Any) -> None:
        self._shapes[id(t)] = t, shape

    def __getitem__(self, t: Tensor) -> Any:
        return self._shapes.setdefault(id(t), (t, {}))[1]

    def __len__(self) -> int:
        return len(self._shapes)

    def dynamic_shapes(self, m: Any, args: tuple, kwargs: dict[str, Any] | None = None) -> Any:
        """The sizes in the form of the arguments."""

        def of(x: Any) -> Any:
            if isinstance(x, dict):
                return {k: of(v) for k, v in x.items()}
            if isinstance(x, list | tuple):
                return type(x)(of(v) for v in x)
            return self._shapes.get(id(x), (x, None))[1]

        return of((*args, *(kwargs or {}).values()))


def sizes_of(where: str, t: Tensor, spec: Any) -> dict[int, Any]:
    """The dimensions of a tensor that were said to be dynamic: a Dim, or a hint, for each.

    KilnError for what is no such thing, and for values out of a Dim's range.
    """
    if spec is None:
        return {}
    if isinstance(spec, list | tuple):
        if len(spec) != t.ndim:
            raise KilnError(
                "export", f"Expected dynamic shape spec {spec} specified at `dynamic_shapes{where}` to have the same "
                f"length as the actual tensor shape {tuple(t.shape)}", describe(t), "an entry for each dimension",
            )  # fmt: skip
        spec = dict(enumerate(spec))
    if not isinstance(spec, dict):
        raise KilnError(
            "export", f"Unexpected dynamic_shape {spec!r} of Tensor, try None, a dict or a list instead",
            f"dynamic_shapes{where}", "{0: Dim('batch')}",
        )  # fmt: skip
    out = {}
    for d, dim in spec.items():
        known = (
            dim is None
            or isinstance(dim, Dim | _Hint)
            or (isinstance(dim, int) and not isinstance(dim, bool))
        )
        if not known or not -t.ndim <= d < t.ndim:
            raise KilnError(
                "export", f"Unexpected dimension mapped to index {d} in input tensor shape {spec} specified at "
                f"`dynamic_shapes{where}`", f"{dim!r} for {describe(t)}",
                "None, an int, a Dim, Dim.AUTO, Dim.STATIC or Dim.DYNAMIC, for a dimension that there is",
            )  # fmt: skip
        size = t.shape[d]
        if isinstance(dim, int) and dim != size:
            raise KilnError(
                "export",
                f"Static shape constraint of {dim} does not match input size of {size}",
                describe(t),
            )
        if isinstance(dim, Dim) or (isinstance(dim, _Hint) and dim.kind != "STATIC"):
            least, most = dim.min or 0, INFINITY if dim.max is None else dim.max
            if not least <= size <= most:
                raise KilnError(
                    "export", f"{size} not in range [{least}, {most}]", f"dimension {d} of {describe(t)}",
                    "an example within the range",
                )  # fmt: skip
            out[d % t.ndim] = dim
    return out
