"""Types that annotations of scripted functions name: those of `typing`, and `Future`."""

from typing import Any, Dict, List, Optional, Tuple, TypeVar, Union  # noqa: UP035

from ..futures import Future

__all__ = ["Any", "BroadcastingList1", "BroadcastingList2", "BroadcastingList3", "Dict", "Future", "List", "Optional", "Tuple", "Union"]  # fmt: skip

T = TypeVar("T")
BroadcastingList1 = BroadcastingList2 = BroadcastingList3 = Union[T, List[T]]  # noqa: UP006, UP007
"""A value, or as many of them: `BroadcastingList2[int]`."""
