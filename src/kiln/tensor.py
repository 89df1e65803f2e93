"""Tensor: the user's handle on data, dtype, device and gradient.

The payload `_a` is a NumPy array in eager mode and a symbolic array while a function is captured;
both have `shape`, `dtype` and `ndim`. Methods that are operations are bound from the op registry
when `kiln.ops` is imported; this file holds what a tensor *is*.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import get_ident
from typing import TYPE_CHECKING, Any

import numpy as np

from . import dtypes as dt
from . import formats
from .device import CPU, META, as_device, device
from .errors import (
    KilnBufferError,
    KilnError,
    KilnTypeError,
    KilnValueError,
    describe,
)
from .shape import Size
from .sharing import expose, lend

if TYPE_CHECKING:
    from ._tensor_methods import TensorMethods
else:
    TensorMethods = object

_new = object.__new__


def _disabled_torch_function_impl(
    func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
) -> Any:
    """The `__torch_function__` of classes whose tensors functions treat as any others: they give plain ones."""
    from .overrides import run_plain

    return run_plain(func, args, kwargs)


_size: Any = tuple.__new__  # of an array's shape, which holds ints already


class Tensor(TensorMethods):
    """An n-dimensional array of one dtype that remembers how it was computed.

    Made by `kiln.tensor`, `kiln.zeros`, … and by operations. Slots: `_a` payload; `_fn`, `_idx` the
    tape node that produced it and which of its outputs it is; `_rg` requires_grad; `_grad`;
    `_ver` [version, history] shared by all aliases of one memory; for a differentiable view
    `_base` is the tensor it views, `_view` the chain of view ops from it and `_seen` the history
    of the base that `_fn` reflects; `_hooks` gradient hooks.
    """

    __slots__ = ("__dict__", "__weakref__", "_a", "_base", "_fn", "_grad", "_hooks", "_idx", "_rg",
                 "_seen", "_ver", "_view")  # fmt: skip
    _a: Any
    _base: Any
    _fn: Any
    _grad: Tensor | None
    _hooks: Any
    _ver: Any
    _view: Any
    __array_priority__ = 1000  # ndarray + Tensor is Tensor.__radd__
    __hash__: Any = object.__hash__

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """`Tensor(2, 3)` is uninitialised with that shape; `Tensor([1, 2])` holds the data."""
        from .ops.creation import empty, tensor

        if len(args) == 1 and not isinstance(args[0], int):
            value = args[0]
            if isinstance(value, Tensor):
                out = value.detach()
            elif isinstance(value, Size):
                out = empty(value)
            else:
                out = tensor(value, dtype=dt.get_default_dtype())
        else:
            out = empty(args if args else (0,))
        if cls is not Tensor:
            out.__class__ = cls
        return out

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__torch_function__ is _disabled_torch_function_impl:
            PLAIN.add(cls)
        else:
            from .overrides import intercept

            intercept(cls)

    @classmethod
    def __torch_function__(
        cls, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """What a function gives that is called with tensors of this class: of the class as well."""
        from .overrides import default

        return default(cls, func, types, args, kwargs)

    @staticmethod
    def _make_subclass(kind: type, data: Tensor, require_grad: bool = False) -> Any:
        """The memory of a tensor as a new leaf of a subclass."""
        from .overrides import as_class, run_plain

        out = as_class(run_plain(Tensor.detach, (data,), None), kind)
        return run_plain(Tensor.requires_grad_, (out, require_grad), None)

    @staticmethod
    def _make_wrapper_subclass(kind: type, *args: Any, **kwargs: Any) -> Any:
        """A tensor without memory, for `__torch_dispatch__`: refused."""
        from .overrides import refuse_dispatch

        refuse_dispatch(kind.__name__)

    # ---- what it is

    @property
    def shape(self) -> Size:
        """The sizes of the dimensions."""
        return _size(Size, self._a.shape)

    @property
    def dtype(self) -> dt.dtype:
        """The element type."""
        return dt.OF_NUMPY[self._a.dtype]

    @property
    def device(self) -> device:
        """Where the data lives."""
        a = self._a
        return CPU if a.__class__ is np.ndarray else getattr(type(a), "place", CPU)

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return self._a.ndim

    def dim(self) -> int:
        """The number of dimensions."""
        return self._a.ndim

    ndimension = dim

    def size(self, dim: int | None = None) -> Any:
        """The shape, or the size of one dimension."""
        shape = self._a.shape
        if dim is None:
            return _size(Size, shape)
        if dim.__class__ is int and -len(shape) <= dim < len(shape):
            return shape[dim]
        from .shape import norm_dim

        return self._a.shape[norm_dim(dim, self._a.ndim, "size")]

    def numel(self) -> int:
        """The number of elements."""
        return Size(self._a.shape).numel()

    nelement = numel

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return self._a.dtype.itemsize

    def element_size(self) -> int:
        """Bytes per element."""
        return self._a.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.numel() * self._a.dtype.itemsize

    def stride(self, dim: int | None = None) -> Any:
        """How many elements apart neighbours are in memory, by dimension."""
        from .shape import norm_dim

        a = self._a
        if isinstance(a, np.ndarray):
            strides = tuple(s // a.itemsize for s in a.strides)
        else:
            strides = tuple(a.strided().strides)
        return strides if dim is None else strides[norm_dim(dim, a.ndim, "stride")]

    def storage_offset(self) -> int:
        """Elements between the start of the memory and the first element."""
        root = self._a
        while isinstance(root.base, np.ndarray):
            root = root.base
        return (_address(self._a) - _address(root)) // self._a.itemsize

    def data_ptr(self) -> int:
        """The address of the first element."""
        a = self._host("data_ptr")
        expose(a)
        return _address(a)

    @property
    def _cdata(self) -> int:
        """What tells one tensor from another, by which programs compare them: PyTorch's is the address of its object."""
        return id(self)

    def untyped_storage(self) -> Any:
        """The bytes of the memory that the tensor is a view of."""
        from .storage import UntypedStorage, memory

        return UntypedStorage(memory(self._host("untyped_storage")))

    def storage(self) -> Any:
        """The elements of the memory that the tensor is a view of."""
        from .storage import TypedStorage

        return TypedStorage(wrap_storage=self.untyped_storage(), dtype=self.dtype)

    def is_set_to(self, tensor: Tensor) -> bool:
        """Whether another tensor shows the same memory in the same way."""
        a, b = self._host("is_set_to"), tensor._host("is_set_to")
        return (_address(a), a.shape, a.strides, a.dtype) == (
            _address(b),
            b.shape,
            b.strides,
            b.dtype,
        )

    def is_contiguous(self, memory_format: Any = None) -> bool:
        """Whether elements lie without gaps in row-major order, or that of another memory format."""
        a = self._a
        if memory_format is not None and memory_format is not formats.contiguous_format:
            return formats.lies_in(memory_format, a.shape, self.stride())
        return (a if isinstance(a, np.ndarray) else a.strided()).flags.c_contiguous

    def is_floating_point(self) -> bool:
        """Whether the dtype is floating."""
        return self.dtype.is_floating_point

    def is_complex(self) -> bool:
        """Whether the dtype is complex."""
        return self.dtype.is_complex

    def is_signed(self) -> bool:
        """Whether the dtype can hold negative numbers."""
        return self.dtype.is_signed

    is_cuda = is_mps = is_xpu = is_xla = is_mkldnn = is_vulkan = is_ipu = is_maia = property(
        lambda self: False, doc="Whether the data lives on such a device: it is on the CPU."
    )  # fmt: skip
    is_sparse = is_sparse_csr = is_quantized = is_nested = property(
        lambda self: False, doc="Whether the elements are stored in such a way: they are strided."
    )
    is_cpu = property(lambda self: self.device is CPU, doc="Whether the data lives on the CPU.")
    is_meta = property(lambda self: self.device is META, doc="Whether there is no data.")
    layout = property(lambda self: formats.strided, doc="How the elements are stored.")

    # ---- gradient fields

    @property
    def requires_grad(self) -> bool:
        """Whether gradients flow into this tensor."""
        return _fresh(self)._rg

    @requires_grad.setter
    def requires_grad(self, flag: bool) -> None:
        flag = bool(flag)
        if self._fn is not None and not flag:
            raise KilnError(
                "requires_grad", "only leaf tensors can stop requiring grad", describe(self),
                "use x.detach() for a tensor that does not require grad",
            )  # fmt: skip
        if flag and self.dtype.category < dt.FLOAT:
            raise KilnError(
                "requires_grad", "only floating and complex tensors can require gradients",
                describe(self), "convert first: x.float()",
            )  # fmt: skip
        if CAPTURING and (ctx := CAPTURING.get(get_ident())):
            ctx.payload(self)  # what it was is a fact of the captured program
        self._rg = flag

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Set `requires_grad` in place; returns self."""
        self.requires_grad = requires_grad
        return self

    @property
    def grad_fn(self) -> Any:
        """The tape node that computed this tensor, None for a leaf."""
        return _fresh(self)._fn

    @property
    def is_leaf(self) -> bool:
        """Whether this tensor was made by the user and not by a recorded operation."""
        return _fresh(self)._fn is None

    @property
    def output_nr(self) -> int:
        """Which output of `grad_fn` this tensor is."""
        return self._idx

    @property
    def _version(self) -> int:
        return 0 if self._ver is None else self._ver[0]

    def _is_view(self) -> bool:
        return self._base is not None

    @property
    def grad(self) -> Tensor | None:
        """The accumulated gradient: a tensor of this shape, or None."""
        if CAPTURING and (ctx := CAPTURING.get(get_ident())):
            return ctx.read_grad(self)
        return self._grad

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if value is not None:
            if not isinstance(value, Tensor):
                raise KilnTypeError("grad", "a gradient is a Tensor or None", describe(value), "")
            if value._a.shape != self._a.shape or value._a.dtype != self._a.dtype:
                raise KilnError(
                    "grad", "a gradient has its tensor's shape and dtype",
                    f"tensor {describe(self)}, gradient {describe(value)}", "reshape or cast it",
                )  # fmt: skip
        if CAPTURING and (ctx := CAPTURING.get(get_ident())):
            ctx.note_grad(self)
        self._grad = value

    @grad.deleter
    def grad(self) -> None:
        self.grad = None

    @property
    def data(self) -> Tensor:
        """The same memory as a tensor outside autograd; writes to it are not tracked."""
        return wrap(_payload(self))

    @data.setter
    def data(self, value: Tensor) -> None:
        if CAPTURING and (ctx := CAPTURING.get(get_ident())):
            ctx.write(self, value)
        else:
            self._a = value._a

    def detach(self) -> Tensor:
        """The same memory without history; in-place changes are seen by both."""
        out = wrap(_payload(self))
        if self._ver is None:
            self._ver = [0, 0]
        out._ver = self._ver
        return out

    def detach_(self) -> Tensor:
        """Drop the history of this tensor; returns self."""
        if self._base is not None:
            raise KilnError(
                "detach_", "a view can't be detached in place", describe(self), "use x.detach()"
            )
        self._fn, self._rg = None, False
        return self

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> Any:
        """Call `hook(grad)` when this tensor's gradient is known; it may return a new one."""
        from .autograd.hooks import register_tensor_hook

        return register_tensor_hook(self, hook)

    def register_post_accumulate_grad_hook(self, hook: Callable[[Tensor], None]) -> Any:
        """Call `hook(self)` after a gradient has been added to this leaf's `.grad`."""
        from .autograd.hooks import register_post_accumulate_hook

        return register_post_accumulate_hook(self, hook)

    def retain_grad(self) -> None:
        """Keep `.grad` of a tensor that is not a leaf."""
        from .autograd.hooks import retain_grad

        retain_grad(self)

    @property
    def retains_grad(self) -> bool:
        """Whether a tensor that is not a leaf keeps its `.grad`."""
        return self._fn is not None and self._hooks is not None and "retain" in self._hooks

    # ---- to Python and NumPy

    def item(self) -> Any:
        """The one element as a Python number."""
        a = self._a
        if a.__class__ is np.ndarray and a.size == 1 and not CAPTURING:
            return a.item()
        if self.numel() != 1:
            raise KilnError(
                "item", "only a tensor with one element can become a Python number",
                describe(self), "index it, or use x.tolist()",
            )  # fmt: skip
        return self._host("item").item()

    def tolist(self) -> Any:
        """Nested lists of Python numbers."""
        return self._host("tolist").tolist()

    def numpy(self, *, force: bool = False) -> np.ndarray:
        """The same memory as a NumPy array."""
        if not force and _fresh(self)._rg:
            raise KilnError(
                "numpy", "can't share the memory of a tensor that requires grad", describe(self),
                "use x.detach().numpy()",
            )  # fmt: skip
        return lend(self._host("numpy"))

    def _host(self, why: str) -> np.ndarray:
        a = self._a
        if not isinstance(a, np.ndarray):
            return a.host(why)
        if CAPTURING and (ctx := CAPTURING.get(get_ident())):
            ctx.check_host_read(self, why)
        return a

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        a = self._host("__array__")
        if dtype is not None and a.dtype != dtype:
            return a.astype(dtype)
        return a.copy() if copy else lend(a)

    def __array_namespace__(self, /, *, api_version: str | None = None) -> Any:
        """The namespace of the Array API standard for tensors: `kiln.array_api`."""
        from . import array_api

        if api_version not in (None, *array_api.VERSIONS):
            raise KilnValueError(
                "__array_namespace__", "no such revision of the Array API standard", repr(api_version),
                "one of " + ", ".join(array_api.VERSIONS),
            )  # fmt: skip
        return array_api

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[Any, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A DLPack capsule of this memory, or of a copy of it."""
        a = self._host("__dlpack__")
        if _fresh(self)._rg:
            raise KilnBufferError(
                "dlpack", "can't export a tensor that requires grad", describe(self),
                "use x.detach()",
            )  # fmt: skip
        try:
            return lend(a).__dlpack__(
                stream=stream, max_version=max_version, dl_device=dl_device, copy=copy
            )
        except BufferError as e:
            raise KilnBufferError(
                "dlpack", str(e), describe(self), "convert the dtype first"
            ) from None

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)

    def __bool__(self) -> bool:
        n = self.numel()
        if n != 1:
            raise KilnError(
                "bool", "the truth value of a tensor with "
                + ("no elements" if n == 0 else "more than one element") + " is ambiguous",
                describe(self), "use x.any() or x.all()",
            )  # fmt: skip
        a = self._a
        if CAPTURING and (ctx := CAPTURING.get(get_ident())):
            return ctx.branch(self)
        return bool(a)

    def _number(self) -> Any:
        """The one element; unlike `item()`, ValueError where there are others, as PyTorch has it."""
        a = self._a
        if (a.__class__ is np.ndarray and a.size == 1) or self.numel() == 1:
            return self.item()
        raise KilnValueError(
            "item", "only one element tensors can be converted to Python scalars", describe(self), "index it, or use x.tolist()"
        )  # fmt: skip

    def __float__(self) -> float:
        return float(self._number())

    def __int__(self) -> int:
        return int(self._number())

    def __complex__(self) -> complex:
        return complex(self._number())

    def __index__(self) -> int:
        if self.dtype.category > dt.INT or self.numel() != 1:
            raise KilnTypeError(
                "index", "only a one-element integer tensor can be an index", describe(self), ""
            )
        return int(self.item())

    def __len__(self) -> int:
        if self._a.ndim == 0:
            raise KilnTypeError("len", "len() of a 0-d tensor", describe(self), "use x.numel()")
        return self._a.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        if self._a.ndim == 0:
            raise KilnTypeError(
                "iter", "iteration over a 0-d tensor", describe(self), "use x.item()"
            )
        return iter(self.unbind(0))

    def __contains__(self, element: Any) -> bool:
        return bool((self == element).any().item())

    def __format__(self, spec: str) -> str:
        if self._a.ndim == 0 and isinstance(self._a, np.ndarray):
            return self.item().__format__(spec)
        return object.__format__(self, spec)

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        from .printing import tensor_repr

        return tensor_repr(self)

    def __deepcopy__(self, memo: dict) -> Tensor:
        if _fresh(self)._fn is not None:
            raise KilnError(
                "deepcopy", "only leaf tensors can be deep-copied", describe(self),
                "use x.detach().clone()",
            )  # fmt: skip
        if id(self) in memo:
            return memo[id(self)]
        import copy

        out = wrap(self._a.copy(order="K"))
        out.__class__ = type(self)
        out._rg = self._rg
        memo[id(self)] = out
        if self._grad is not None:
            out._grad = copy.deepcopy(self._grad, memo)
        out.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return out

    def __reduce_ex__(self, protocol: Any) -> Any:
        a = self._host("pickle")
        if protocol >= 5:  # a pickler may give its buffers out
            a = lend(a)
        return _rebuild, (a, self._rg, type(self), dict(self.__dict__))

    def cpu(self, memory_format: Any = None) -> Tensor:
        """This tensor on the CPU; itself where it is there already."""
        return self._a.host("cpu") if self.is_meta else self

    def cuda(self, device: Any = None, non_blocking: bool = False) -> Tensor:
        """This tensor on a CUDA device; an error where there is none."""
        as_device("cuda")
        return self

    def xpu(self, device: Any = None, non_blocking: bool = False) -> Tensor:
        """This tensor on an Intel GPU; an error where there is none."""
        as_device("xpu")
        return self


def wrap(a: Any) -> Tensor:
    """A new leaf tensor around a payload."""
    t = _new(Tensor)
    t._a = a
    t._fn = t._grad = t._ver = t._base = t._hooks = None
    t._idx = 0
    t._rg = False
    return t


def _payload(t: Tensor) -> Any:
    """A tensor's payload without history; while a function is captured, one that the capture knows."""
    if CAPTURING and (ctx := CAPTURING.get(get_ident())):
        return ctx.detached(t)
    return t._a


def alias(t: Tensor) -> Tensor:
    """The same memory as a new leaf: `detach`, but only from the history at this level of vmap."""
    ctx = CAPTURING.get(get_ident()) if CAPTURING else None
    out = wrap(t._a if ctx is None else ctx.payload(t))
    if t._ver is None:
        t._ver = [0, 0]
    out._ver = t._ver
    return out


def _rebuild(a: np.ndarray, rg: bool, cls: type, extra: dict) -> Tensor:
    t = wrap(dt.known(a.copy() if isinstance(a.base, bytes) else a))  # memory of its own
    t.__class__ = cls
    t._rg = rg
    t.__dict__.update(extra)
    return t


def _address(a: np.ndarray) -> int:
    return a.__array_interface__["data"][0] if a.dtype.isbuiltin == 1 else a.ctypes.data


# Note [Views and history]
# An in-place op on a view rewrites its base's history (`_ver[1]` counts that), so the `_fn` of every
# other view of the base is out of date. Nothing hunts for those views: whoever reads `_fn` or `_rg`
# of a view calls `_fresh` first, which replays the chain of view ops on the base where it must.
def _fresh(t: Tensor) -> Tensor:
    if t._base is not None and t._seen != t._ver[1]:
        from .autograd.views import refresh

        refresh(t)
    return t


def differentiated(t: Tensor) -> bool:
    """Whether a tensor requires grad, or under vmap the one with the batch that it stands for."""
    while not _fresh(t)._rg:
        a = t._a
        if isinstance(a, np.ndarray) or a.tensor is None:
            return False
        t = a.tensor
    return True


PLAIN: set[type] = {Tensor}
"""Classes of tensors that leave functions as they are; those of others are asked: Note [Who is asked] in `overrides`."""
OVERRIDING: list[type] = []
"""The classes of tensors that are not among these."""
MODES: list[Any] = []
"""The modes that are entered, on all threads: see `overrides.TorchFunctionMode`."""
CAPTURING: dict[int, Any] = {}
"""The capture, or the level of vmap, under way on each thread that has one, by thread id; empty almost always."""
ACTIVE: dict[int, dt.dtype] = {}
"""The dtype of the autocast region that each thread is in that is: Note [Autocast] in `ops/precision.py`."""
_WATCHERS: set[str] = set()


def watch_calls(who: str, flag: bool) -> None:
    """Have all calls of ops go by `dispatch.apply`, by an entry of no thread in `CAPTURING`, where anybody asks for it."""
    _WATCHERS.add(who) if flag else _WATCHERS.discard(who)
    if _WATCHERS:
        CAPTURING[0] = None
    else:
        CAPTURING.pop(0, None)


def active_capture() -> Any:
    """This thread's capture or level of vmap, or None."""
    return CAPTURING.get(get_ident()) if CAPTURING else None


def captured() -> Any:
    """This thread's capture, beneath levels of vmap that there may be, or None."""
    ctx = active_capture()
    return None if ctx is None else ctx.capture
