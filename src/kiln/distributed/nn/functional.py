"""Collectives that gradients flow through: in a group of one process each gives its input back.

https://docs.pytorch.org/docs/stable/distributed.html
"""

from __future__ import annotations

from typing import Any

from ...tensor import Tensor
from ..collectives import ReduceOp
from ..group import default


def all_gather(tensor: Tensor, group: Any = None) -> tuple[Tensor, ...]:
    """The tensors of all processes: this one's."""
    default("all_gather")
    return (tensor.clone(),)


def gather(tensor: Tensor, dst: int = 0, group: Any = None) -> tuple[Tensor, ...]:
    """The tensors of all processes, on one of them."""
    return all_gather(tensor, group)


def all_reduce(tensor: Tensor, op: Any = ReduceOp.SUM, group: Any = None) -> Tensor:
    """The tensors of all processes, reduced: this one's."""
    default("all_reduce")
    return tensor.clone()


def reduce(tensor: Tensor, dst: int, op: Any = ReduceOp.SUM, group: Any = None) -> Tensor:
    """The tensors of all processes, reduced on one of them."""
    return all_reduce(tensor, op, group)


def broadcast(tensor: Tensor, src: int, group: Any = None) -> Tensor:
    """One process's tensor on all."""
    return all_reduce(tensor, group=group)


def scatter(tensors: list[Tensor], src: int = 0, group: Any = None) -> Tensor:
    """This process's of one's tensors."""
    return all_reduce(tensors[0], group=group)


def reduce_scatter(
    output: Tensor, input_list: list[Tensor], op: Any = ReduceOp.SUM, group: Any = None
) -> Tensor:
    """This process's part of the reduced tensors."""
    return output.copy_(all_reduce(input_list[0], op, group))


def all_to_all(
    output_tensor_list: list[Tensor], input_tensor_list: list[Tensor], group: Any = None
) -> tuple[Tensor, ...]:
    """Each process's part of each process's tensors."""
    default("all_to_all")
    return tuple(out.copy_(x) for out, x in zip(output_tensor_list, input_tensor_list, strict=True))


def all_to_all_single(
    output: Tensor, input: Tensor, output_split_sizes: Any = None, input_split_sizes: Any = None, group: Any = None
) -> Tensor:  # fmt: skip
    """Each process's part of each process's tensor."""
    default("all_to_all_single")
    return output.copy_(input)
