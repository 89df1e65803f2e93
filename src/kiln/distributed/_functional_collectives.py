"""Collectives that give a new tensor, in a group of one process."""

from __future__ import annotations

from typing import Any

from ..tensor import Tensor
from .group import default


def all_reduce(self: Tensor, reduceOp: str, group: Any, tag: str = "") -> Tensor:
    """The processes' tensors combined: this one's."""
    default("all_reduce")
    return self.clone()


def all_gather_tensor(self: Tensor, gather_dim: int, group: Any, tag: str = "") -> Tensor:
    """The processes' tensors side by side: this one's."""
    default("all_gather_tensor")
    return self.clone()


def reduce_scatter_tensor(
    self: Tensor, reduceOp: str, scatter_dim: int, group: Any, tag: str = ""
) -> Tensor:
    """The processes' tensors combined, this one's part: all of it."""
    default("reduce_scatter_tensor")
    return self.clone()


def broadcast(self: Tensor, src: int, group: Any, tag: str = "") -> Tensor:
    """One process's tensor: this one's."""
    default("broadcast")
    return self.clone()


def wait_tensor(tensor: Tensor) -> Tensor:
    """A collective's result when it is done: it is."""
    return tensor


def all_to_all_single_autograd(
    self: Tensor, output_split_sizes: Any, input_split_sizes: Any, group: Any, tag: str = ""
) -> Tensor:
    """The processes' parts exchanged: this one's tensor. Gradients flow through."""
    default("all_to_all_single_autograd")
    return self.clone()
