"""What a tensor can be asked about itself, and methods that PyTorch's CPU tensors have for other devices' sake."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..device import META, anywhere
from ..errors import KilnError, KilnNotImplementedError, KilnTypeError, describe
from ..formats import memory_format, order, preserve_format
from ..meta import Nothing
from ..tensor import Tensor, _address, wrap
from .creation import _finish, _size
from .indexing import assign
from .reduction import Dims, numpy_axis, reduced_axes, reduced_shape
from .registry import FUNCTIONS, METHODS, Sample, method, op
from .reshaping import _extent, _row_major
from .samples import draw, rng
from .strided import as_strided


def _both(fn: Callable) -> Callable:
    """Bind a function as a method too."""
    FUNCTIONS[fn.__name__] = fn
    return method(fn.__name__)(fn)


@_both
def is_same_size(input: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same shape."""
    return input.shape == other.shape


@_both
def is_conj(input: Tensor) -> bool:
    """False: a conjugate is computed when it is asked for."""
    return False


@_both
def is_neg(input: Tensor) -> bool:
    """False: a negative is computed when it is asked for."""
    return False


@_both
def resolve_conj(input: Tensor) -> Tensor:
    """The tensor itself: its conjugates are computed already."""
    return input


@_both
def resolve_neg(input: Tensor) -> Tensor:
    """The tensor itself: its negatives are computed already."""
    return input


@_both
def is_distributed(input: Tensor) -> bool:
    """False: a tensor lies on one machine."""
    return False


FUNCTIONS["is_signed"] = Tensor.is_signed
FUNCTIONS["detach"], FUNCTIONS["detach_"] = Tensor.detach, Tensor.detach_
for _name in ("fill_", "index_put_", "zero_"):
    FUNCTIONS[_name] = METHODS[_name]
for _name in ("bilinear", "pairwise_distance", "pdist"):
    FUNCTIONS[_name] = FUNCTIONS[f"nn.functional.{_name}"]
FUNCTIONS["get_device"] = method("get_device")(lambda input: -1)


Tensor.is_mtia = property(lambda self: False)  # type: ignore[attr-defined]
Tensor.const_data_ptr = Tensor.data_ptr  # type: ignore[attr-defined]
Tensor.__long__, Tensor.__nonzero__ = Tensor.__int__, Tensor.__bool__  # type: ignore[attr-defined]
for _name in ("div", "rdiv", "idiv"):
    setattr(Tensor, f"__{_name}__", getattr(Tensor, f"__{_name.replace('div', 'truediv')}__"))


@method("__reversed__")
def reversed_(self: Tensor) -> Tensor:
    """The tensor flipped along all dimensions."""
    return self.flip(tuple(range(self.ndim)))


@method("float_power_")
def float_power_(self: Tensor, exponent: Any) -> Tensor:
    """`float_power` in place, of a float64 or complex128 tensor."""
    r = FUNCTIONS["float_power"](self, exponent)
    if r.dtype is not self.dtype:
        raise KilnError("float_power_", f"the base given to float_power_ has dtype {self.dtype.name} but the operation's "
                        f"result requires dtype {r.dtype.name}", describe(self), "convert it first")  # fmt: skip
    return assign(self, FUNCTIONS["float_power"], exponent)


# ---------------------------------------------------------------- a fingerprint


def _hash_infer(input: Any, dim: Dims = (), keepdim: bool = False, mode: int = 0) -> tuple:
    if mode != 0:
        raise KilnError("hash_tensor", "only mode 0 (xor) is supported", mode, "")
    return reduced_shape(
        input.shape, reduced_axes(dim, len(input.shape), "hash_tensor"), keepdim
    ), dt.uint64


@op(infer=_hash_infer, out=True, exact=True, samples=lambda: iter([
    Sample((draw(rng(), (3, 4)),), grad=False), Sample((draw(rng(), (3, 4)), 1), {"keepdim": True}, grad=False),
    Sample((np.arange(-3, 3),), grad=False), Sample((draw(rng(), (3,)),), {"mode": 1}, error=RuntimeError),
]))  # fmt: skip
def hash_tensor(input: Tensor, dim: Dims = (), *, keepdim: bool = False, mode: int = 0) -> Tensor:
    """The exclusive or of the elements' bits, each as a float64 or int64, over `dim`: uint64."""
    if input.dtype.kind == "c":
        raise TypeError("hash of complex numbers")
    wide = input.astype(np.int64 if input.dtype.kind in "iub" else np.float64)
    return np.bitwise_xor.reduce(
        wide.view(np.uint64), numpy_axis(dim, input.ndim), keepdims=keepdim
    )


# ---------------------------------------------------------------- other devices, other processes


@method("is_pinned")
def is_pinned(self: Tensor, device: Any = None) -> bool:
    """False: only copies to a GPU ask for pinned memory."""
    return False


@method("pin_memory")
def pin_memory(self: Tensor, device: Any = None) -> Tensor:
    """An error, as in PyTorch where there is no accelerator: only copies to one ask for pinned memory."""
    raise KilnError(
        "pin_memory",
        "cannot pin memory: there is no accelerator",
        describe(self),
        "leave pin_memory out on a CPU",
    )


@method("record_stream")
def record_stream(self: Tensor, stream: Any) -> None:
    """An error, as in PyTorch: streams belong to accelerators."""
    raise KilnError(
        "record_stream",
        "a CPU tensor is used on no stream",
        describe(self),
        "leave it out on a CPU",
    )


@method("is_shared")
def is_shared(self: Tensor) -> bool:
    """Whether the memory is one that other processes may have too: `share_memory_`, a worker's batch."""
    from ..runtime.shared import is_shared

    return is_shared(self._host("is_shared"))


@method("share_memory_")
def share_memory_(self: Tensor) -> Tensor:
    """Move to memory that other processes can have too; returns self.

    All of the memory moves that the tensor is a view of, and with it the tensor that it was made from. Other
    tensors on that memory stay where they are, without what is written from then on.
    Processes that are forked later see what this one writes, and it them; so do those that the tensor is sent
    to (`kiln.multiprocessing`). Raises NotImplementedError on Windows.
    """
    from ..runtime.shared import sendable, shared_copy
    from ..storage import memory

    a = self._host("share_memory_")
    if sendable(a):
        return self
    old = memory(a)
    new = shared_copy(old)
    for t in (self, self._base):
        if t is None:
            continue
        a = t._a
        at = _address(a) - _address(old) if a.size and old.size else 0
        if at >= 0 and at + a.nbytes <= max(old.size, a.nbytes):
            t.data = wrap(np.ndarray(a.shape, a.dtype, new.data, at, a.strides))
    return self


# ---------------------------------------------------------------- strides chosen by the caller


def _strided_empty(
    name: str, size: Any, stride: Any, dtype: dt.dtype, device: Any, requires_grad: bool
) -> Tensor:
    size, stride = _size((size,), None, name), tuple(stride)
    if len(size) != len(stride):
        raise KilnError(name, "size and stride must have the same length", f"{size}, {stride}", "")
    if any(s < 0 for s in stride):
        raise KilnError(name, "strides must not be negative", f"stride={stride}", "")
    if anywhere(device) is META:
        return _finish(wrap(Nothing(size, dtype.np, stride)), requires_grad)
    memory = np.zeros(_extent(size, stride), dtype.np)
    return _finish(wrap(as_strided(wrap(memory), size, stride, 0)._a), requires_grad)


def empty_strided(size: Sequence[int], stride: Sequence[int], *, dtype: Any = None, layout: Any = None, device: Any = None,
                  requires_grad: bool = False, pin_memory: bool = False) -> Tensor:  # fmt: skip
    """A tensor of this size whose neighbours lie `stride` elements apart; its values are not specified."""
    d = dt.get_default_dtype() if dtype is None else dt.as_dtype(dtype)
    return _strided_empty("empty_strided", size, stride, d, device, requires_grad)


def empty_permuted(size: Sequence[int], physical_layout: Sequence[int], *, dtype: Any = None, layout: Any = None,
                   device: Any = None, requires_grad: bool = False, pin_memory: bool = False) -> Tensor:  # fmt: skip
    """A dense tensor of this size whose dimensions lie in memory in the order of `physical_layout`."""
    order = list(physical_layout)
    if sorted(order) != list(range(len(size))):
        raise KilnError(
            "empty_permuted",
            "the physical layout names each dimension once",
            f"{order} for {list(size)}",
            "",
        )
    stride = [0] * len(order)
    for at, step in zip(order, _row_major([size[d] for d in order]), strict=True):
        stride[at] = step
    d = dt.get_default_dtype() if dtype is None else dt.as_dtype(dtype)
    return _strided_empty("empty_permuted", size, stride, d, device, requires_grad)


FUNCTIONS["empty_strided"], FUNCTIONS["empty_permuted"] = empty_strided, empty_permuted


@method("new_empty_strided")
def new_empty_strided(self: Tensor, size: Sequence[int], stride: Sequence[int], dtype: Any = None, layout: Any = None,
                      device: Any = None, pin_memory: bool = False, requires_grad: bool = False) -> Tensor:  # fmt: skip
    """`empty_strided` with this tensor's dtype."""
    d = self.dtype if dtype is None else dt.as_dtype(dtype)
    return _strided_empty(
        "new_empty_strided",
        size,
        stride,
        d,
        self.device if device is None else device,
        requires_grad,
    )


# ---------------------------------------------------------------- Python functions of elements


def _mapped(name: str, self: Tensor, fn: Callable, others: tuple[Tensor, ...]) -> Tensor:
    if self.requires_grad:
        raise KilnError(name, "Can't call apply_() or map_() on a Variable that requires grad. Use var.detach() first.",
                        describe(self), "x.detach()")  # fmt: skip
    for x in others:
        if not isinstance(x, Tensor):
            raise KilnTypeError(
                name, f"argument must be a Tensor, not {type(x).__name__}", describe(x), ""
            )
    lists = [np.broadcast_to(x._host(name), self.shape).ravel().tolist() for x in (self, *others)]
    values = [fn(*v) for v in zip(*lists, strict=True)]
    return self.copy_(wrap(np.array(values, self._a.dtype).reshape(self.shape)))


@method("apply_")
def apply_(self: Tensor, callable: Callable[[Any], Any]) -> Tensor:
    """Each element replaced by what a Python function makes of it."""
    return _mapped("apply_", self, callable, ())


@method("map_")
def map_(self: Tensor, tensor: Tensor, callable: Callable[[Any, Any], Any]) -> Tensor:
    """Each element replaced by what a Python function makes of it and of another tensor's."""
    return _mapped("map_", self, callable, (tensor,))


@method("map2_")
def map2_(self: Tensor, x: Tensor, y: Tensor, callable: Callable[[Any, Any, Any], Any]) -> Tensor:
    """Each element replaced by what a Python function makes of it and of those of two other tensors."""
    return _mapped("map2_", self, callable, (x, y))


@method("as_subclass")
def as_subclass(self: Tensor, cls: type) -> Tensor:
    """The same tensor as an instance of a subclass of Tensor; gradients flow through."""
    if not (isinstance(cls, type) and issubclass(cls, Tensor)):
        raise KilnTypeError("as_subclass", "expected a subclass of Tensor", repr(cls), "")
    from ..overrides import as_class, run_plain

    return as_class(run_plain(Tensor.view_as, (self, self), None), cls)


# ---------------------------------------------------------------- order and names of dimensions


@method("dim_order")
def dim_order(self: Tensor, *, ambiguity_check: Any = False) -> tuple[int, ...]:
    """The dimensions from the outermost in memory to the innermost.

    With `ambiguity_check` RuntimeError where another order would do as well, or, of a list of memory formats, where
    not just one of them fits.
    """
    if not isinstance(ambiguity_check, bool) and not (
        isinstance(ambiguity_check, list) and all(isinstance(f, memory_format) for f in ambiguity_check)
    ):  # fmt: skip
        raise KilnTypeError("dim_order", "The ambiguity_check argument must be a bool or a list of memory formats.", describe(ambiguity_check), "")  # fmt: skip
    shape, stride = self._a.shape, self.stride()
    if ambiguity_check is True:
        steps = sorted(zip(stride, shape, strict=True), reverse=True)
        clear = all(n > 1 for n in shape) and all(a > b for (a, _), (b, _) in pairwise(steps))
    else:
        fits = [f for f in ambiguity_check or () if self.is_contiguous(memory_format=f)]
        clear = not ambiguity_check or len(fits) == 1
    if not clear:
        raise KilnError(
            "dim_order", "The tensor does not have unique dim order, or cannot map to exact one of the given memory formats.",
            f"sizes {list(shape)}, strides {list(stride)}", "ambiguity_check=False gives one of them",
        )  # fmt: skip
    found = order("dim_order", preserve_format, shape, stride)
    return tuple(range(self._a.ndim)) if found is None else found


@method("is_inference")
def is_inference(self: Tensor) -> bool:
    """Whether a tensor was made for inference only: False, tensors of inference mode are like others here."""
    return False


def _grad_dtype(self: Tensor) -> Any:
    _need_leaf(self)
    return vars(self).get("_grad_dtype", (self.dtype,))[0]


def _set_grad_dtype(self: Tensor, value: Any) -> None:
    _need_leaf(self)
    if self.grad is not None and value is not None and self.grad.dtype is not value:
        raise KilnError(
            "grad_dtype", f"Cannot set grad_dtype to {value} because there is already a gradient with dtype {self.grad.dtype}",
            describe(self), "x.grad = None first",
        )  # fmt: skip
    own = vars(self)
    if "_grad_dtype" in own:
        own["_grad_dtype"][1].remove()
    own["_grad_dtype"] = (value, self.register_hook(lambda g: g if value is None else g.to(value)))


def _need_leaf(self: Tensor) -> None:
    if not self.is_leaf:
        raise KilnError("grad_dtype", "grad_dtype can only be accessed on leaf tensors.", describe(self), "x.detach()")  # fmt: skip


Tensor.grad_dtype = property(  # type: ignore[attr-defined]
    _grad_dtype, _set_grad_dtype, doc="The dtype in which the gradient of a leaf is kept; None: as it comes."
)  # fmt: skip


@method("has_names")
def has_names(self: Tensor) -> bool:
    """Whether dimensions have names: they have not."""
    return False


def _refuse_names(self: Tensor, *names: Any, **more: Any) -> Any:
    """Of named tensors, which Kiln does not have."""
    raise KilnNotImplementedError(
        "names",
        "dimensions have no names",
        describe(self),
        "number them: x.sum(dim=1), x.permute(…)",
    )


for _name in ("rename", "rename_", "refine_names", "align_to", "align_as"):
    method(_name)(_refuse_names)
Tensor.names = property(  # type: ignore[attr-defined]
    lambda self: (None,) * self._a.ndim, _refuse_names, doc="The names of the dimensions: none."
)
