"""Processes with unequal numbers of batches: in a group of one process there is nobody to wait for."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

__all__ = ["Join", "JoinHook", "Joinable"]


class JoinHook:
    """What a `Joinable` does while others still have batches."""

    def main_hook(self) -> None:
        """Called for each batch of the others."""

    def post_hook(self, is_last_joiner: bool) -> None:
        """Called when all have finished."""


class Joinable:
    """The base of classes that take part in `Join`."""


class Join(nullcontext):
    """A context in which processes may end with unequal numbers of batches."""

    def __init__(
        self, joinables: Sequence[Joinable], enable: bool = True, throw_on_early_termination: bool = False, **kwargs: Any
    ):  # fmt: skip
        super().__init__()
        self.joinables = list(joinables)

    @staticmethod
    def notify_join_context(joinable: Joinable) -> None:
        """Tell the others that this process goes on: there are none."""
