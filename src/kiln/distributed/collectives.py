"""Collectives in a group of one process: what each gives where there is nobody else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

from ..autograd.modes import no_grad
from ..errors import KilnError, KilnTypeError, KilnValueError, describe
from ..futures import Future
from ..tensor import Tensor
from .group import _only, default, member


class ReduceOp(Enum):
    """How a reduction combines what the processes have."""

    SUM, AVG, PRODUCT, MIN, MAX, BAND, BOR, BXOR, PREMUL_SUM, UNUSED = range(10)


ReduceOp.RedOpType = ReduceOp  # type: ignore[attr-defined]  # which annotations name


reduce_op = ReduceOp
"""The older name of `ReduceOp`."""


class Work:
    """A collective that was begun with `async_op`: it is done."""

    def __init__(self, result: Any = None):
        self._result = result

    def wait(self, timeout: Any = None) -> bool:
        """Wait until it is done."""
        return True

    def is_completed(self) -> bool:
        """Whether it is done."""
        return True

    def is_success(self) -> bool:
        """Whether it went well."""
        return True

    def exception(self) -> None:
        """What went wrong: nothing."""

    def result(self) -> Any:
        """The tensors that it wrote."""
        return self._result

    def get_future(self) -> Future:
        """The result as a future, which is done."""
        out: Future = Future()
        out.set_result(self._result)
        return out


def _tensor(op: str, x: Any, name: str) -> Tensor:
    if not isinstance(x, Tensor):
        raise KilnTypeError(op, f"`{name}` is a Tensor", describe(x), "")
    return x


def _tensors(op: str, xs: Any, name: str) -> Sequence[Tensor]:
    if not isinstance(xs, list | tuple) or not all(isinstance(x, Tensor) for x in xs):
        raise KilnTypeError(op, f"`{name}` is a list of Tensors", describe(xs), "")
    return xs


def _done(result: Any, async_op: bool) -> Work | None:
    return Work(result) if async_op else None


def _one(op: str, xs: Any, name: str) -> Tensor:
    if len(_tensors(op, xs, name)) != 1:
        raise KilnValueError(
            op, f"`{name}` has one tensor for each process", f"{len(xs)} tensors", "1 process"
        )
    return xs[0]


def _write(out: Tensor, x: Tensor) -> None:
    if out.numel() != x.numel():
        raise KilnValueError(
            "distributed",
            "output and input have different sizes",
            f"{describe(out)}, {describe(x)}",
            "",
        )
    with no_grad():
        out.copy_(x.reshape(out.shape))


def all_reduce(
    tensor: Tensor, op: Any = ReduceOp.SUM, group: Any = None, async_op: bool = False
) -> Work | None:
    """Combine the processes' tensors in place: the tensor stays as it is."""
    _tensor("all_reduce", tensor, "tensor")
    return _done([tensor], async_op) if member("all_reduce", group) else None


def all_reduce_coalesced(
    tensors: Any, op: Any = ReduceOp.SUM, group: Any = None, async_op: bool = False
) -> Work | None:
    """`all_reduce` of several tensors."""
    default("all_reduce_coalesced")
    return _done([tensors] if isinstance(tensors, Tensor) else tensors, async_op)


def reduce(
    tensor: Tensor, dst: int | None = None, op: Any = ReduceOp.SUM, group: Any = None, async_op: bool = False,
    group_dst: int | None = None,
) -> Work | None:  # fmt: skip
    """Combine the processes' tensors at one of them: the tensor stays as it is."""
    _tensor("reduce", tensor, "tensor")
    default("reduce")
    _only(dst if group_dst is None else group_dst, "reduce")
    return _done([tensor], async_op)


def broadcast(
    tensor: Tensor,
    src: int | None = None,
    group: Any = None,
    async_op: bool = False,
    group_src: int | None = None,
) -> Work | None:
    """Give one process's tensor to all: the tensor stays as it is."""
    _tensor("broadcast", tensor, "tensor")
    default("broadcast")
    _only(src if group_src is None else group_src, "broadcast")
    return _done([tensor], async_op)


def all_gather(
    tensor_list: list[Tensor], tensor: Tensor, group: Any = None, async_op: bool = False
) -> Work | None:
    """All processes' tensors, written to a list of as many: this one's."""
    _tensor("all_gather", tensor, "tensor")
    default("all_gather")
    _write(_one("all_gather", tensor_list, "tensor_list"), tensor)
    return _done(tensor_list, async_op)


def all_gather_coalesced(
    output_tensor_lists: list[list[Tensor]],
    input_tensor_list: list[Tensor],
    group: Any = None,
    async_op: bool = False,
) -> Work | None:
    """`all_gather` of several tensors."""
    for out, x in zip(output_tensor_lists[0], input_tensor_list, strict=True):
        all_gather([out], x, group)
    return _done(output_tensor_lists, async_op)


def all_gather_into_tensor(
    output_tensor: Tensor, input_tensor: Tensor, group: Any = None, async_op: bool = False
) -> Work | None:
    """All processes' tensors in one: this one's."""
    default("all_gather_into_tensor")
    _write(_tensor("all_gather_into_tensor", output_tensor, "output_tensor"), input_tensor)
    return _done([output_tensor], async_op)


def gather(
    tensor: Tensor, gather_list: list[Tensor] | None = None, dst: int | None = None, group: Any = None,
    async_op: bool = False, group_dst: int | None = None,
) -> Work | None:  # fmt: skip
    """All processes' tensors at one of them: this one's."""
    default("gather")
    _only(dst if group_dst is None else group_dst, "gather")
    if not gather_list:
        raise KilnValueError(
            "gather", "Argument ``gather_list`` must be specified on destination rank.", None, ""
        )
    return all_gather(gather_list, tensor, group, async_op)


def scatter(
    tensor: Tensor, scatter_list: list[Tensor] | None = None, src: int | None = None, group: Any = None,
    async_op: bool = False, group_src: int | None = None,
) -> Work | None:  # fmt: skip
    """A tensor of a list to each process: the first."""
    default("scatter")
    _only(src if group_src is None else group_src, "scatter")
    if not scatter_list:
        raise KilnValueError(
            "scatter", "Argument ``scatter_list`` must be specified on source rank.", None, ""
        )
    _write(_tensor("scatter", tensor, "tensor"), _one("scatter", scatter_list, "scatter_list"))
    return _done([tensor], async_op)


def reduce_scatter(
    output: Tensor,
    input_list: list[Tensor],
    op: Any = ReduceOp.SUM,
    group: Any = None,
    async_op: bool = False,
) -> Work | None:
    """Combine the processes' lists, a tensor to each: the first."""
    default("reduce_scatter")
    _write(
        _tensor("reduce_scatter", output, "output"),
        _one("reduce_scatter", input_list, "input_list"),
    )
    return _done([output], async_op)


def reduce_scatter_tensor(
    output: Tensor, input: Tensor, op: Any = ReduceOp.SUM, group: Any = None, async_op: bool = False
) -> Work | None:
    """Combine the processes' tensors, a part to each: all of it."""
    return all_gather_into_tensor(output, input, group, async_op)


def all_to_all(
    output_tensor_list: list[Tensor],
    input_tensor_list: list[Tensor],
    group: Any = None,
    async_op: bool = False,
) -> Work | None:
    """A tensor from each process to each: the one from this to this."""
    x = _one("all_to_all", input_tensor_list, "input_tensor_list")
    return all_gather(output_tensor_list, x, group, async_op)


def all_to_all_single(
    output: Tensor, input: Tensor, output_split_sizes: Any = None, input_split_sizes: Any = None, group: Any = None,
    async_op: bool = False,
) -> Work | None:  # fmt: skip
    """A part of a tensor from each process to each: the tensor."""
    return all_gather_into_tensor(output, input, group, async_op)


def barrier(group: Any = None, async_op: bool = False, device_ids: Any = None) -> Work | None:
    """Wait for all processes: for nobody."""
    default("barrier")
    return _done(None, async_op)


def monitored_barrier(group: Any = None, timeout: Any = None, wait_all_ranks: bool = False) -> None:
    """Wait for all processes: for nobody."""
    default("monitored_barrier")


def all_gather_object(object_list: list[Any], obj: Any, group: Any = None) -> None:
    """All processes' objects, written to a list of as many: this one's."""
    default("all_gather_object")
    object_list[:1] = [obj]


def gather_object(
    obj: Any, object_gather_list: list[Any] | None = None, dst: int | None = None, group: Any = None,
    group_dst: int | None = None,
) -> None:  # fmt: skip
    """All processes' objects at one of them: this one's."""
    default("gather_object")
    _only(dst if group_dst is None else group_dst, "gather_object")
    if object_gather_list is None:
        raise KilnValueError("gather_object", "Argument ``object_gather_list`` must be specified on destination rank.",
                             None, "")  # fmt: skip
    object_gather_list[:1] = [obj]


def broadcast_object_list(
    object_list: list[Any], src: int | None = None, group: Any = None, device: Any = None,
    group_src: int | None = None,
) -> None:  # fmt: skip
    """Give one process's objects to all: they stay as they are."""
    default("broadcast_object_list")
    _only(src if group_src is None else group_src, "broadcast_object_list")


def scatter_object_list(
    scatter_object_output_list: list[Any], scatter_object_input_list: list[Any] | None = None, src: int | None = None,
    group: Any = None, group_src: int | None = None,
) -> None:  # fmt: skip
    """An object of a list to each process: the first."""
    default("scatter_object_list")
    scatter_object_output_list[:1] = (scatter_object_input_list or [])[:1]


def _nobody(name: str) -> Callable[..., Any]:
    def fail(*args: Any, **kwargs: Any) -> Any:
        default(name)
        raise KilnError(
            name,
            "there is no other process in a group of one",
            None,
            "leave it out where world_size is 1",
        )

    fail.__name__, fail.__doc__ = (
        name,
        "A message between two processes: an error in a group of one.",
    )
    return fail


send, recv, isend, irecv = map(_nobody, ("send", "recv", "isend", "irecv"))


class P2POp:
    """A message between two processes, for `batch_isend_irecv`."""

    def __init__(
        self, op: Any, tensor: Tensor, peer: int | None = None, group: Any = None, tag: int = 0
    ):
        self.op, self.tensor, self.peer, self.group, self.tag = op, tensor, peer, group, tag


def batch_isend_irecv(p2p_op_list: list[P2POp]) -> list[Work]:
    """Several messages at once: none in a group of one."""
    return [p.op(p.tensor, p.peer, p.group, p.tag) for p in p2p_op_list]
