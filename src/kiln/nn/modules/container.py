"""Modules that hold modules or parameters: Sequential, lists and dicts of them."""

from __future__ import annotations

import operator
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, Self

from ...errors import (
    KilnAssertionError,
    KilnAttributeError,
    KilnIndexError,
    KilnTypeError,
    KilnValueError,
    describe,
)
from ...tensor import Tensor
from ..parameter import Parameter, is_lazy
from .module import Module


def _position(i: Any, n: int) -> int:
    i = operator.index(i)
    if not -n <= i < n:
        raise KilnIndexError("nn", f"index {i} is out of range", f"{n} entries")
    return i % n


class _Numbered(Module):
    """Submodules under the names "0", "1", …"""

    def _key(self, i: Any) -> str:
        return list(self._modules)[_position(i, len(self))]

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if not name.isdigit()]

    def __delitem__(self, i: int | slice) -> None:
        names = list(self._modules)
        for name in names[i] if isinstance(i, slice) else [self._key(i)]:
            delattr(self, name)
        kept = list(self._modules.values())
        self._modules = {str(n): m for n, m in enumerate(kept)}

    def append(self, module: Module) -> Self:
        """Add a module at the end; returns self."""
        self.add_module(str(len(self)), module)
        return self

    def insert(self, index: int, module: Module) -> Self:
        """Add a module before position `index`; returns self."""
        if not isinstance(module, Module):
            raise KilnAssertionError(
                "insert", f"module should be of type: {Module}", describe(module)
            )
        n = len(self)
        if not -n <= index <= n:
            raise KilnIndexError("insert", f"index out of range: {index}", f"{n} entries")
        rest = list(self._modules.values())
        rest.insert(index, module)
        self._modules = {str(i): m for i, m in enumerate(rest)}
        return self

    def pop(self, key: int | slice = -1) -> Module:
        """Remove a module and give it."""
        module = self[key]  # type: ignore[index]
        del self[key]
        return module


class Container(Module):
    """A module of the modules that it is given by name; `Module` itself does that too."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__()
        warnings.warn(
            "nn.Container is deprecated. All of its functionality is now implemented in nn.Module. "
            "Subclass that instead.", FutureWarning, stacklevel=2,
        )  # fmt: skip
        for name, module in kwargs.items():
            self.add_module(name, module)


class Sequential(_Numbered):
    """Modules one after another: `Sequential(a, b)(x)` is `b(a(x))`; an OrderedDict names them."""

    def __init__(self, *args: Any) -> None:
        super().__init__()
        if len(args) == 1 and isinstance(args[0], OrderedDict):
            for name, module in args[0].items():
                self.add_module(name, module)
        else:
            for i, module in enumerate(args):
                self.add_module(str(i), module)

    def __getitem__(self, i: int | slice) -> Any:
        if isinstance(i, slice):
            return type(self)(OrderedDict(list(self._modules.items())[i]))
        return self._modules[self._key(i)]

    def __setitem__(self, i: int, module: Module) -> None:
        setattr(self, self._key(i), module)

    def __add__(self, other: Any) -> Sequential:
        if not isinstance(other, Sequential):
            raise KilnValueError("add", "only a Sequential can be added to one", describe(other))
        return Sequential(*self, *other)

    def __iadd__(self, other: Any) -> Self:
        if not isinstance(other, Sequential):
            raise KilnValueError("add", "only a Sequential can be added to one", describe(other))
        return self.extend(other)

    def __mul__(self, n: int) -> Sequential:
        if not isinstance(n, int):
            raise KilnTypeError(
                "mul", "a Sequential is repeated an integer number of times", describe(n)
            )
        if n <= 0:
            raise KilnValueError("mul", "a Sequential is repeated at least once", n)
        return Sequential(*chain.from_iterable(self for _ in range(n)))

    __rmul__ = __mul__

    def __imul__(self, n: int) -> Self:
        once = list((self * n)[: len(self)])
        for _ in range(n - 1):
            self.extend(once)
        return self

    def extend(self, sequential: Iterable[Module]) -> Self:
        """Add modules at the end; returns self."""
        for module in list(sequential):
            self.append(module)
        return self

    def forward(self, input: Any) -> Any:
        for module in self._modules.values():
            input = module(input)
        return input


class ModuleList(_Numbered):
    """A list of modules."""

    def __init__(self, modules: Iterable[Module] | None = None) -> None:
        super().__init__()
        if modules is not None:
            self += modules

    def __getitem__(self, i: int | slice) -> Any:
        if isinstance(i, slice):
            return type(self)(list(self._modules.values())[i])
        return self._modules[self._key(i)]

    def __setitem__(self, i: int, module: Module) -> None:
        setattr(self, self._key(i), module)

    def __iadd__(self, modules: Iterable[Module]) -> Self:
        return self.extend(modules)

    def __add__(self, other: Iterable[Module]) -> ModuleList:
        return type(self)([*self, *other])

    def extend(self, modules: Iterable[Module]) -> Self:
        """Add modules at the end; returns self."""
        if not isinstance(modules, Iterable):
            raise KilnTypeError(
                "extend", "ModuleList.extend should be called with an iterable", describe(modules)
            )
        for module in list(modules):
            self.append(module)
        return self

    def __repr__(self) -> str:
        texts = [repr(m) for m in self]
        if not texts:
            return f"{self._get_name()}()"
        lines, i = [], 0
        while i < len(texts):
            j = i
            while j + 1 < len(texts) and texts[j + 1] == texts[i]:
                j += 1
            text = texts[i].replace("\n", "\n  ")
            lines.append(f"({i}): {text}" if i == j else f"({i}-{j}): {j - i + 1} x {text}")
            i = j + 1
        return f"{self._get_name()}(\n  " + "\n  ".join(lines) + "\n)"


class _Named:
    """What dicts of modules and of parameters have in common."""

    def _pairs(self, entries: Any) -> Iterator[tuple[str, Any]]:
        if not isinstance(entries, Iterable):
            raise KilnTypeError(
                "update", f"{type(self).__name__}.update should be called with an iterable of key/value "
                f"pairs, but got {type(entries).__name__}", describe(entries),
            )  # fmt: skip
        if isinstance(entries, Mapping | _Named):
            yield from entries.items()
            return
        for i, pair in enumerate(entries):
            if not isinstance(pair, Iterable):
                raise KilnTypeError(
                    "update", f"sequence element {i} should be Iterable", describe(pair)
                )
            pair = tuple(pair)
            if len(pair) != 2:
                raise KilnValueError(
                    "update",
                    f"sequence element {i} has length {len(pair)}; 2 is required",
                    describe(pair),
                )
            yield pair  # type: ignore[misc]

    def items(self) -> Iterable[tuple[str, Any]]:
        """(name, entry)."""
        raise NotImplementedError

    def update(self, entries: Any) -> None:
        """Add entries from a mapping or from (name, entry) pairs."""
        for name, entry in self._pairs(entries):
            self[name] = entry  # type: ignore[index]


class ModuleDict(_Named, Module):
    """A dict of modules, in the order of insertion."""

    def __init__(self, modules: Any = None) -> None:
        super().__init__()
        if modules is not None:
            self.update(modules)

    def __getitem__(self, key: str) -> Module:
        return self._modules[key]

    def __setitem__(self, key: str, module: Module) -> None:
        self.add_module(key, module)

    def __delitem__(self, key: str) -> None:
        if key not in self._modules:
            raise KeyError(key)
        delattr(self, key)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, key: str) -> bool:
        return key in self._modules

    def clear(self) -> None:
        """Remove everything."""
        for key in list(self._modules):
            del self[key]

    def pop(self, key: str) -> Module:
        """Remove an entry and give it."""
        module = self[key]
        del self[key]
        return module

    def keys(self) -> Iterable[str]:
        """The names."""
        return self._modules.keys()

    def items(self) -> Iterable[tuple[str, Module]]:
        """(name, module)."""
        return self._modules.items()

    def values(self) -> Iterable[Module]:
        """The modules."""
        return self._modules.values()


def _as_entry(x: Any) -> Any:
    """A parameter for a tensor; anything else stays what it is."""
    return Parameter(x) if isinstance(x, Tensor) and not isinstance(x, Parameter) else x


def _entry_repr(x: Any, by_type: bool = False) -> str:
    if not isinstance(x, Tensor):
        return f"Object of type: {type(x).__name__}"
    kind = "Parameter" if isinstance(x, Parameter) else "Tensor"
    size = "uninitialized" if is_lazy(x) else "x".join(map(str, x.shape))
    name = x.type() if by_type and not is_lazy(x) else x.dtype
    return f"{kind} containing: [{name} of size {size}]"


class ParameterList(Module):
    """A list of parameters; tensors put into it become parameters."""

    def __init__(self, values: Iterable[Any] | None = None) -> None:
        super().__init__()
        self._size = 0
        if values is not None:
            self += values

    def __getitem__(self, i: int | slice) -> Any:
        if isinstance(i, slice):
            return type(self)(self[j] for j in range(*i.indices(len(self))))
        return getattr(self, str(_position(i, len(self))))

    def __setitem__(self, i: int, value: Any) -> None:
        setattr(self, str(_position(i, len(self))), _as_entry(value))

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Any]:
        return iter(self[i] for i in range(len(self)))

    def __iadd__(self, values: Iterable[Any]) -> Self:
        return self.extend(values)

    def append(self, value: Any) -> Self:
        """Add a parameter at the end; returns self."""
        n = len(self)
        self._size += 1
        self[n] = value
        return self

    def extend(self, values: Iterable[Any]) -> Self:
        """Add parameters at the end; returns self."""
        if not isinstance(values, Iterable) or isinstance(values, Tensor):
            raise KilnTypeError(
                "extend", "ParameterList.extend should be called with an iterable, but got "
                + type(values).__name__, describe(values),
            )  # fmt: skip
        for value in values:
            self.append(value)
        return self

    def extra_repr(self) -> str:
        return "\n".join(f"  ({i}): {_entry_repr(x)}" for i, x in enumerate(self))

    def forward(self, *input: Any) -> Any:
        raise KilnTypeError("ParameterList", "ParameterList should not be called", None, "index it")


class ParameterDict(_Named, Module):
    """A dict of parameters, in the order of insertion; tensors put into it become parameters."""

    def __init__(self, parameters: Any = None) -> None:
        super().__init__()
        self._keys: dict[str, None] = {}
        if parameters is not None:
            self.update(parameters)

    def __getitem__(self, key: str) -> Any:
        if key not in self._keys:
            raise KilnAttributeError(
                "ParameterDict", f"'ParameterDict' object has no attribute '{key}'", repr(key), ", ".join(self._keys)
            )  # fmt: skip
        return getattr(self, key)

    def __setitem__(self, key: str, value: Any) -> None:
        if not isinstance(key, str):
            raise KilnTypeError("ParameterDict", "a key is a string", describe(key))
        setattr(self, key, _as_entry(value))
        self._keys[key] = None

    def __delitem__(self, key: str) -> None:
        del self._keys[key]
        delattr(self, key)

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._keys)

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def __or__(self, other: ParameterDict) -> ParameterDict:
        out = self.copy()
        out.update(other)
        return out

    def __ior__(self, other: ParameterDict) -> Self:
        self.update(other)
        return self

    def copy(self) -> ParameterDict:
        """A dict of the same parameters."""
        return ParameterDict(OrderedDict(self.items()))

    def clear(self) -> None:
        """Remove everything."""
        for key in list(self._keys):
            del self[key]

    def pop(self, key: str) -> Any:
        """Remove an entry and give it."""
        value = self[key]
        del self[key]
        return value

    def popitem(self) -> tuple[str, Any]:
        """Remove the last entry and give (name, parameter)."""
        key = next(reversed(self._keys))
        return key, self.pop(key)

    def get(self, key: str, default: Any = None) -> Any:
        """The parameter of that name, or the default."""
        return self[key] if key in self._keys else default

    def setdefault(self, key: str, default: Any = None) -> Any:
        """The parameter of that name, put there first where there is none."""
        if key not in self._keys:
            self[key] = default
        return self[key]

    def fromkeys(self, keys: Iterable[str], default: Any = None) -> ParameterDict:
        """A new dict with one value for all names."""
        return ParameterDict((k, default) for k in keys)

    def keys(self) -> Iterable[str]:
        """The names."""
        return self._keys.keys()

    def update(self, entries: Any) -> None:
        """Add entries from a mapping or from (name, entry) pairs; those of a plain dict by name."""
        plain = isinstance(entries, Mapping) and not isinstance(entries, OrderedDict)
        super().update(sorted(entries.items()) if plain else entries)

    def items(self) -> Iterable[tuple[str, Any]]:
        """(name, parameter)."""
        return ((k, self[k]) for k in self._keys)

    def values(self) -> Iterable[Any]:
        """The parameters."""
        return (self[k] for k in self._keys)

    def extra_repr(self) -> str:
        return "\n".join(f"  ({k}): {_entry_repr(x, by_type=True)}" for k, x in self.items())

    def forward(self, *input: Any) -> Any:
        raise KilnTypeError("ParameterDict", "ParameterDict should not be called", None, "index it")
