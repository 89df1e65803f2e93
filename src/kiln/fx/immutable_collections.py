"""Lists and dicts that can't be changed, as arguments of nodes. Source: torch.fx.immutable_collections."""

from __future__ import annotations

from typing import Any, NoReturn


def _refuse(self: Any, *args: Any, **kwargs: Any) -> NoReturn:
    raise NotImplementedError(
        f"'{type(self).__name__}' object does not support mutation; give the node new args instead"
    )


class immutable_list(list):
    """A list that can't be changed."""

    def __reduce__(self) -> tuple:
        return immutable_list, (list(self),)

    __hash__ = lambda self: hash(tuple(self))  # type: ignore[assignment]  # noqa: E731


class immutable_dict(dict):
    """A dict that can't be changed."""

    def __reduce__(self) -> tuple:
        return immutable_dict, (dict(self),)

    __hash__ = lambda self: hash(frozenset(self.items()))  # type: ignore[assignment]  # noqa: E731


for _name in "__delitem__ __iadd__ __imul__ __setitem__ append clear extend insert pop remove reverse sort".split():  # noqa: SIM905
    setattr(immutable_list, _name, _refuse)
for _name in "__delitem__ __ior__ __setitem__ clear pop popitem setdefault update".split():  # noqa: SIM905
    setattr(immutable_dict, _name, _refuse)
