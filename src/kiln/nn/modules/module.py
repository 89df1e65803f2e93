"""Module: the base of all layers and models.

https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any, Self

from ... import dtypes as dt
from ...autograd.modes import no_grad
from ...compile.hooks import rebind, watch
from ...device import as_device
from ...errors import (
    KilnAttributeError,
    KilnKeyError,
    KilnNotImplementedError,
    KilnTypeError,
    KilnValueError,
    describe,
)
from ...formats import CHANNELS_LAST, as_format
from ...ops.creation import empty_like
from ...tensor import CAPTURING, Tensor
from .. import _hooks
from .._hooks import CONFIG_VERSION, Hooks
from .._state import State
from ..parameter import Buffer, Parameter, UninitializedBuffer, UninitializedParameter, is_lazy

_HOOKS = (
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks",
    "_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)  # fmt: skip
_TABLES = ("_facts", "_parameters", "_buffers", "_modules", *_HOOKS)
_MISSING = object()


class Module(Hooks, State):
    """A piece of a model: parameters, buffers and submodules by name, and `forward`.

    Subclasses call `super().__init__()`, assign parameters and modules to attributes and define
    `forward`; calling the module calls that.
    """

    training: bool
    __capture_version__ = CONFIG_VERSION  # facts of all modules are what they were where this is

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if args or kwargs:
            given = ", ".join([*map(describe, args), *kwargs])
            raise KilnTypeError(
                "Module", f"{type(self).__name__}.__init__() got arguments that it does not take",
                given, "see the class's signature",
            )  # fmt: skip
        self.__dict__.update(
            training=True, _parameters={}, _buffers={}, _non_persistent_buffers_set=set(), _modules={},
            **{name: OrderedDict() for name in _HOOKS},
        )  # fmt: skip

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes; subclasses define it."""
        raise KilnNotImplementedError(
            "forward", f'Module [{type(self).__name__}] is missing the required "forward" function',
            None, "define forward(self, …) in the class",
        )  # fmt: skip

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if CAPTURING:
            watch(self)
        if (
            self._forward_hooks
            or self._forward_pre_hooks
            or self._backward_hooks
            or self._backward_pre_hooks
        ):
            return _hooks.call(self, args, kwargs)
        return self.forward(*args, **kwargs)

    def compiled(self, call: Any) -> Module:
        """This module under another `__call__`: parameters, state and flags are one and the same (see `kiln.compile`)."""
        cls = type(self)

        def __call__(twin: Module, *args: Any, **kwargs: Any) -> Any:
            return call(*args, **kwargs)

        def __deepcopy__(twin: Module, memo: dict) -> Module:
            from ..compile import compile

            return compile(deepcopy(self, memo), backend=call.backend, max_memory=call.max_memory)

        facts = {"__call__": __call__, "__deepcopy__": __deepcopy__, "__module__": cls.__module__,
                 "__reduce_ex__": lambda twin, protocol: self.__reduce_ex__(protocol),
                 "__qualname__": cls.__qualname__, "__doc__": cls.__doc__, "_orig_mod": self,
                 "memory_stats": staticmethod(call.memory_stats)}  # fmt: skip
        twin = object.__new__(type(cls)(cls.__name__, (cls,), facts))
        object.__setattr__(twin, "__dict__", self.__dict__)
        return twin

    def __capture_facts__(self) -> Any:
        """What a captured call of this module relies on, to be compared at each replay."""
        own = self.__dict__
        known = own.get("_facts")
        if known is None or known[0] != CONFIG_VERSION[0] or known[1] != id(self):
            plain = tuple((k, _fact(v)) for k, v in own.items() if k not in _TABLES)
            held = tuple(tuple((n, id(x)) for n, x in own[k].items()) for k in _TABLES[1:])
            own["_facts"] = known = (CONFIG_VERSION[0], id(self), (type(self), plain, held))
        return known[2]

    # ---- attributes

    def __getattr__(self, name: str) -> Any:
        own = self.__dict__
        try:
            return own["_parameters"][name]
        except KeyError:
            pass
        for kind in ("_buffers", "_modules"):
            table = own.get(kind)
            if table is not None and name in table:
                return table[name]
        raise AttributeError(
            f"'{type(self).__name__}' object has no attribute '{name}'", name=name, obj=self
        )

    def __setattr__(self, name: str, value: Any) -> None:
        own = self.__dict__
        params, buffers, modules = (own.get(k) for k in ("_parameters", "_buffers", "_modules"))
        if isinstance(value, Parameter):
            _need_init(params, "parameters")
            _forget(name, own, buffers, modules, own["_non_persistent_buffers_set"])
            self.register_parameter(name, value)
        elif params is not None and name in params:
            if value is not None:
                _refuse(name, value, "parameter", "kiln.nn.Parameter")
            self.register_parameter(name, None)
        elif isinstance(value, Module):
            _need_init(modules, "module")
            _forget(name, own, params, buffers, own["_non_persistent_buffers_set"])
            assert modules is not None
            _count(modules.get(name, _MISSING), value)
            modules[name] = value
        elif modules is not None and name in modules:
            if value is not None:
                _refuse(name, value, "child module", "kiln.nn.Module")
            CONFIG_VERSION[0] += 1
            modules[name] = None
        elif isinstance(value, Buffer | UninitializedBuffer):
            _forget(name, own, params, modules)
            self.register_buffer(name, value, getattr(value, "persistent", True))
        elif buffers is not None and name in buffers:
            if value is not None and not isinstance(value, Tensor):
                _refuse(name, value, "buffer", "kiln.nn.Buffer, kiln.Tensor")
            _count(buffers[name], value)
            if CAPTURING and value is not None:
                rebind(buffers, name)
            buffers[name] = value
        else:
            _count(own.get(name, _MISSING), value)
            if CAPTURING and isinstance(value, Tensor):
                rebind(own, name)
            object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        CONFIG_VERSION[0] += 1
        for kind in ("_parameters", "_buffers", "_modules"):
            if name in self.__dict__.get(kind, ()):
                del self.__dict__[kind][name]
                self._non_persistent_buffers_set.discard(name)
                return
        object.__delattr__(self, name)

    def __dir__(self) -> list[str]:
        names = {
            *dir(type(self)),
            *self.__dict__,
            *self._parameters,
            *self._modules,
            *self._buffers,
        }
        return sorted(n for n in names if not n[:1].isdigit())

    def _check_name(self, kind: str, name: Any, table: str) -> None:
        if table not in self.__dict__:
            raise KilnAttributeError(
                "Module", f"cannot assign {kind} before Module.__init__() call", repr(name),
                "call super().__init__() first",
            )  # fmt: skip
        if not isinstance(name, str):
            raise KilnTypeError(
                "Module",
                f"{kind} name should be a string. Got {type(name).__name__}",
                repr(name),
                "",
            )
        if hasattr(self, name) and name not in self.__dict__[table]:
            raise KilnKeyError(
                "Module",
                f"attribute '{name}' already exists",
                type(self).__name__,
                "pick another name",
            )
        if "." in name or name == "":
            why = "can't be empty string" if name == "" else 'can\'t contain "."'
            raise KilnKeyError("Module", f"{kind} name {why}", repr(name), "use a plain identifier")

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Add a parameter under an attribute's name; None keeps the name for later."""
        self._check_name("parameter", name, "_parameters")
        if param is not None and not isinstance(param, Parameter):
            raise KilnTypeError(
                "register_parameter", f"cannot assign '{type(param).__name__}' object to parameter "
                f"'{name}' (kiln.nn.Parameter or None required)", describe(param), "wrap it: nn.Parameter(x)",
            )  # fmt: skip
        if param is not None and param._fn is not None:
            raise KilnValueError(
                "register_parameter", f"cannot assign non-leaf Tensor to parameter '{name}'",
                describe(param), "model parameters must be created explicitly: nn.Parameter(x.detach())",
            )  # fmt: skip
        _count(self._parameters.get(name, _MISSING), param)
        self._parameters[name] = param

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Add a tensor that is state but no parameter; `persistent` puts it into the state dict."""
        self._check_name("buffer", name, "_buffers")
        if tensor is not None and not isinstance(tensor, Tensor):
            raise KilnTypeError(
                "register_buffer", f"cannot assign '{type(tensor).__name__}' object to buffer '{name}' "
                "(kiln.Tensor or None required)", describe(tensor), "kiln.tensor(…) first",
            )  # fmt: skip
        _count(self._buffers.get(name, _MISSING), tensor)
        self._buffers[name] = tensor
        if persistent:
            self._non_persistent_buffers_set.discard(name)
        else:
            self._non_persistent_buffers_set.add(name)

    def add_module(self, name: str, module: Module | None) -> None:
        """Add a submodule under an attribute's name."""
        if not isinstance(module, Module) and module is not None:
            raise KilnTypeError(
                "add_module",
                f"{type(module).__name__} is not a Module subclass",
                describe(module),
                "",
            )
        self._check_name("module", name, "_modules")
        CONFIG_VERSION[0] += 1
        self._modules[name] = module

    register_module = add_module

    # ---- walking

    def children(self) -> Iterator[Module]:
        """The direct submodules, each once."""
        for _, module in self.named_children():
            yield module

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """(name, direct submodule), each once."""
        seen = set()
        for name, module in self._modules.items():
            if module is not None and module not in seen:
                seen.add(module)
                yield name, module

    def modules(self) -> Iterator[Module]:
        """This module and all in it, each once."""
        for _, module in self.named_modules():
            yield module

    def named_modules(
        self, memo: set[Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """(dotted name, module) of this module and all in it."""
        memo = set() if memo is None else memo
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        yield prefix, self
        for name, module in self._modules.items():
            if module is not None:
                start = f"{prefix}.{name}" if prefix else name
                yield from module.named_modules(memo, start, remove_duplicate)

    def _named_members(
        self, get: Callable, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Any]]:
        seen: set[int] = set()
        pairs = (
            self.named_modules(prefix=prefix, remove_duplicate=remove_duplicate)
            if recurse
            else [(prefix, self)]
        )
        for start, module in pairs:
            for name, x in get(module):
                if x is None or id(x) in seen:
                    continue
                if remove_duplicate:
                    seen.add(id(x))
                yield (f"{start}.{name}" if start else name), x

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """The parameters of this module and (`recurse`) of all in it, each once."""
        for _, p in self.named_parameters(recurse=recurse):
            yield p

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """(dotted name, parameter)."""
        return self._named_members(
            lambda m: m._parameters.items(), prefix, recurse, remove_duplicate
        )

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """The buffers of this module and (`recurse`) of all in it, each once."""
        for _, b in self.named_buffers(recurse=recurse):
            yield b

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """(dotted name, buffer)."""
        return self._named_members(lambda m: m._buffers.items(), prefix, recurse, remove_duplicate)

    def get_submodule(self, target: str) -> Module:
        """The submodule at a dotted name; "" is this module."""
        module: Any = self
        for name in target.split(".") if target else ():
            if not hasattr(module, name):
                raise KilnAttributeError(
                    "get_submodule", f"{type(module).__name__} has no attribute `{name}`",
                    repr(target), "names: " + ", ".join(module._modules),
                )  # fmt: skip
            module = getattr(module, name)
            if not isinstance(module, Module):
                raise KilnAttributeError(
                    "get_submodule", f"`{name}` is not an nn.Module", repr(target)
                )
        return module

    def set_submodule(self, target: str, module: Module, strict: bool = False) -> None:
        """Put a module at a dotted name; `strict` wants one to be there already."""
        if not target:
            raise KilnValueError(
                "set_submodule", "cannot set the submodule without a target name", "''"
            )
        if not isinstance(module, Module):
            raise KilnValueError("set_submodule", "not an nn.Module", describe(module))
        *parents, name = target.split(".")
        parent = self.get_submodule(".".join(parents))
        if strict or hasattr(parent, name):
            parent.get_submodule(name)
        setattr(parent, name, module)

    def get_parameter(self, target: str) -> Parameter:
        """The parameter at a dotted name."""
        return self._get_tensor(target, Parameter, "an nn.Parameter")

    def get_buffer(self, target: str) -> Tensor:
        """The buffer at a dotted name."""
        return self._get_tensor(target, None, "a buffer")

    def _get_tensor(self, target: str, kind: type | None, due: str) -> Any:
        path, _, name = target.rpartition(".")
        module = self.get_submodule(path)
        if not hasattr(module, name):
            raise KilnAttributeError(
                "Module", f"{type(module).__name__} has no attribute `{name}`", repr(target)
            )
        x = getattr(module, name)
        if not (isinstance(x, kind) if kind else name in module._buffers):
            raise KilnAttributeError("Module", f"`{name}` is not {due}", repr(target))
        return x

    # ---- changing

    def apply(self, fn: Callable[[Module], Any]) -> Self:
        """Call `fn` with every submodule and, last, with this module; returns self."""
        for module in self.children():
            module.apply(fn)
        fn(self)
        return self

    def train(self, mode: bool = True) -> Self:
        """Set training mode (dropout, batch norm) here and below; returns self."""
        if not isinstance(mode, bool):
            raise KilnValueError("train", "training mode is expected to be boolean", describe(mode))
        self.training = mode
        for module in self.children():
            module.train(mode)
        return self

    def eval(self) -> Self:
        """Set evaluation mode; returns self."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Set whether the parameters want gradients; returns self."""
        for p in self.parameters():
            p.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the parameters' gradients, or fill them with zeros."""
        for p in self.parameters():
            if set_to_none:
                p.grad = None
            elif (g := p.grad) is not None:
                p.grad = g.detach().zero_()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        if recurse:
            for module in self.children():
                module._apply(fn)
        with no_grad():
            for p in self._parameters.values():
                if p is None:
                    continue
                g = p.grad
                new = fn(p.data)
                if new._a is not p._a:
                    p.grad = None
                    p.data = new
                if g is not None:
                    p.grad = fn(g.data).requires_grad_(g.requires_grad)
            for name, b in self._buffers.items():
                if b is not None:
                    new = fn(b)
                    _count(b, new)
                    self._buffers[name] = new
        return self

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move to a device, cast floating parameters and buffers, set their memory format; returns self.

        `to(device)`, `to(dtype)`, `to(tensor)`, `to(device=…, dtype=…)`, `to(memory_format=channels_last)`.
        """
        unknown = kwargs.keys() - {"device", "dtype", "tensor", "non_blocking", "memory_format"}
        if unknown:
            raise KilnTypeError(
                "to", "to() got an unexpected keyword argument", ", ".join(sorted(unknown)),
                "to(device), to(dtype), to(tensor), to(device=…, dtype=…)",
            )  # fmt: skip
        device, dtype = kwargs.get("device"), kwargs.get("dtype")
        for a in (*args, *([kwargs["tensor"]] if "tensor" in kwargs else [])):
            if isinstance(a, Tensor):
                dtype, device = a.dtype, a.device
            elif isinstance(a, dt.dtype):
                dtype = a
            elif not isinstance(a, bool):
                device = a
        if device is not None:
            as_device(device)
        if dtype is not None and dtype.category < dt.FLOAT:
            raise KilnTypeError(
                "to", f"nn.Module.to only accepts floating point or complex dtypes, but got desired dtype={dtype}",
                dtype, "convert single tensors with x.to(dtype)",
            )  # fmt: skip
        if dtype is not None:
            self._cast(dtype)
        format = kwargs.get("memory_format")
        if format is not None:
            rank = len(CHANNELS_LAST.get(as_format("to", format), ()))
            self._apply(lambda x: x.to(memory_format=format) if rank in (0, x.ndim) else x)
        return self

    def _cast(self, dtype: dt.dtype) -> Self:
        return self._apply(lambda x: x.to(dtype) if x.dtype.category >= dt.FLOAT else x)

    def type(self, dst_type: Any) -> Self:
        """Cast all parameters and buffers; returns self."""
        return self._apply(lambda x: x.type(dst_type))

    def float(self) -> Self:
        """Cast floating parameters and buffers to float32; returns self."""
        return self._float_to(dt.float32)

    def double(self) -> Self:
        """Cast floating parameters and buffers to float64; returns self."""
        return self._float_to(dt.float64)

    def half(self) -> Self:
        """Cast floating parameters and buffers to float16; returns self."""
        return self._float_to(dt.float16)

    def bfloat16(self) -> Self:
        """Cast floating parameters and buffers to bfloat16; returns self."""
        return self._float_to(dt.bfloat16)

    def _float_to(self, dtype: dt.dtype) -> Self:
        return self._apply(lambda x: x.to(dtype) if x.is_floating_point() else x)

    def cpu(self) -> Self:
        """Move to the CPU; returns self."""
        return self.to("cpu")

    def cuda(self, device: Any = None) -> Self:
        """Move to a CUDA device; returns self."""
        return self.to("cuda" if device is None else device)

    def to_empty(self, *, device: Any, recurse: bool = True) -> Self:
        """Move to a device without the values; returns self."""
        return self._apply(lambda x: empty_like(x, device=device), recurse)

    def share_memory(self) -> Self:
        """Nothing to do on this platform; returns self."""
        return self

    # ---- showing

    def _get_name(self) -> str:
        return type(self).__name__

    def extra_repr(self) -> str:
        """What a subclass shows between the parentheses of its repr."""
        return ""

    def __repr__(self) -> str:
        extra = self.extra_repr()
        lines = extra.split("\n") if extra else []
        children = [
            f"({name}): " + repr(m).replace("\n", "\n  ") for name, m in self._modules.items()
        ]
        if not children and len(lines) <= 1:
            return f"{self._get_name()}({extra})"
        return f"{self._get_name()}(\n  " + "\n  ".join(lines + children) + "\n)"


def _need_init(table: Any, kind: str) -> None:
    if table is None:
        raise KilnAttributeError(
            "Module", f"cannot assign {kind} before Module.__init__() call", None,
            "call super().__init__() first",
        )  # fmt: skip


def _forget(name: str, *tables: Any) -> None:
    for table in tables:
        if table is not None and name in table:
            table.discard(name) if isinstance(table, set) else table.pop(name)


def _refuse(name: str, value: Any, kind: str, due: str) -> None:
    raise KilnTypeError(
        "Module", f"cannot assign '{type(value).__name__}' as {kind} '{name}' ({due} or None expected)",
        describe(value), f"del the {kind} first to use its name for something else",
    )  # fmt: skip


def _fact(value: Any, depth: int = 0) -> Any:
    """What tells whether an attribute is what it was: plain values themselves, else identities."""
    if isinstance(value, bool | int | float | complex | str | None):
        return value.__class__, value
    if isinstance(value, dict | tuple | list | set) and depth < 3 and len(value) <= 64:
        items = value.items() if isinstance(value, dict) else value
        return tuple(_fact(v, depth + 1) for v in items)
    return id(value)


def _count(old: Any, new: Any) -> None:
    """Count a change of an attribute."""
    if new is not old:
        CONFIG_VERSION[0] += 1


__all__ = [
    "CONFIG_VERSION", "Buffer", "Module", "Parameter", "UninitializedBuffer", "UninitializedParameter",
    "is_lazy",
]  # fmt: skip
