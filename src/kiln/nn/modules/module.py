"""Module: the base of all layers and models.

https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any, Self

from ...compile.hooks import rebind, watch
from ...errors import (
    KilnAttributeError,
    KilnKeyError,
    KilnNotImplementedError,
    KilnTypeError,
    KilnValueError,
    describe,
)
from ...tensor import CAPTURING, Tensor
from .. import _hooks
from .._conversions import Conversions
from .._hooks import (
    CONFIG_VERSION,
    GLOBAL,
    Hooks,
    register_module_backward_hook,
    register_module_buffer_registration_hook,
    register_module_forward_hook,
    register_module_forward_pre_hook,
    register_module_full_backward_hook,
    register_module_full_backward_pre_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
    registered,
)
from .._state import _EXTRA_STATE_KEY_SUFFIX, State, _IncompatibleKeys, _WrappedHook
from ..parameter import Buffer, Parameter, UninitializedBuffer, UninitializedParameter, is_lazy

_HOOKS = (
    "_backward_pre_hooks", "_backward_hooks", "_forward_hooks", "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called", "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs",
    "_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)  # fmt: skip
_TABLES = ("_facts", "_parameters", "_buffers", "_modules", *_HOOKS)
_MISSING = object()
_NONE: dict[str, Any] = {}  # what a table holds before `__init__` has made it
GLOBAL_CALLS = GLOBAL.calls


class Module(Hooks, State, Conversions):
    """A piece of a model: parameters, buffers and submodules by name, and `forward`.

    Subclasses call `super().__init__()`, assign parameters and modules to attributes and define
    `forward`; calling the module calls that.
    """

    training: bool
    __capture_version__ = CONFIG_VERSION  # facts of all modules are what they were where this is

    dump_patches: bool = False
    call_super_init: bool = False
    """Whether `Module.__init__` calls the next class's, with the arguments that it is given."""
    _compiled_call_impl: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if (args or kwargs) and not self.call_super_init:
            given = ", ".join([*map(describe, args), *kwargs])
            raise KilnTypeError(
                "Module", f"{type(self).__name__}.__init__() got arguments that it does not take",
                given, "see the class's signature",
            )  # fmt: skip
        self.__dict__.update(
            training=True, _parameters={}, _buffers={}, _non_persistent_buffers_set=set(),
            _is_full_backward_hook=None, **{name: OrderedDict() for name in _HOOKS}, _modules={},
        )  # fmt: skip
        if self.call_super_init:
            super().__init__(*args, **kwargs)

    def forward(self, *input: Any) -> Any:
        """What the module computes; subclasses define it."""
        raise KilnNotImplementedError(
            "forward", f'Module [{type(self).__name__}] is missing the required "forward" function',
            None, "define forward(self, …) in the class",
        )  # fmt: skip

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._compiled_call_impl is not None:
            return self._compiled_call_impl(*args, **kwargs)
        if CAPTURING:
            watch(self)
        if (
            self._forward_hooks
            or self._forward_pre_hooks
            or self._backward_hooks
            or self._backward_pre_hooks
            or GLOBAL_CALLS
        ):
            return _hooks.call(self, args, kwargs)
        return self.forward(*args, **kwargs)

    def _call_impl(self, *args: Any, **kwargs: Any) -> Any:
        """A call of the module itself, though `compile()` was called."""
        if CAPTURING:
            watch(self)
        return _hooks.call(self, args, kwargs)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Capture calls of this module from now on: `kiln.compile` in place, options as there."""
        from ...compile import compile

        self.__dict__["_compiled_call_impl"] = compile(self._call_impl, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        kept = ("_compiled_call_impl", "_facts")
        return {k: v for k, v in self.__dict__.items() if k not in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        own = self.__dict__
        for name in _HOOKS:  # what modules pickled by earlier versions lack
            own.setdefault(name, OrderedDict())
        own.setdefault("_non_persistent_buffers_set", set())
        own.setdefault("_is_full_backward_hook", None)

    def compiled(self, call: Any) -> Module:
        """This module under another `__call__`: parameters, state and flags are one and the same (see `kiln.compile`)."""
        cls = type(self)

        def __call__(twin: Module, *args: Any, **kwargs: Any) -> Any:
            return call(*args, **kwargs)

        def __deepcopy__(twin: Module, memo: dict) -> Module:
            from ...compile import compile

            return compile(
                deepcopy(self, memo), fullgraph=call.whole, dynamic=call.dynamic, backend=call.backend,
                max_memory=call.max_memory,
            )  # fmt: skip

        facts = {"__call__": __call__, "__deepcopy__": __deepcopy__, "__module__": cls.__module__,
                 "__reduce_ex__": lambda twin, protocol: self.__reduce_ex__(protocol),
                 "__qualname__": cls.__qualname__, "__doc__": cls.__doc__, "_orig_mod": self, "_within": "_orig_mod.",
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
            own["_facts"] = known = (
                CONFIG_VERSION[0],
                id(self),
                (type(self), plain, held, tuple(GLOBAL_CALLS)),
            )
        return known[2]

    # ---- attributes

    def __getattr__(self, name: str) -> Any:
        own = self.__dict__
        if name in (table := own.get("_parameters", _NONE)):
            return table[name]
        if name in (table := own.get("_modules", _NONE)):
            return table[name]
        if name in (table := own.get("_buffers", _NONE)):
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
            value = registered("module", self, name, value)
            _count(modules.get(name, _MISSING), value)
            modules[name] = value
        elif modules is not None and name in modules:
            if value is not None:
                _refuse(name, value, "child module", "kiln.nn.Module")
            CONFIG_VERSION[0] += 1
            modules[name] = registered("module", self, name, None)
        elif isinstance(value, Buffer | UninitializedBuffer):
            _forget(name, own, params, modules)
            self.register_buffer(name, value, getattr(value, "persistent", True))
        elif buffers is not None and name in buffers:
            if value is not None and not isinstance(value, Tensor):
                _refuse(name, value, "buffer", "kiln.nn.Buffer, kiln.Tensor")
            value = registered("buffer", self, name, value)
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
        param = registered("parameter", self, name, param)
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
        tensor = registered("buffer", self, name, tensor)
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
        self._modules[name] = registered("module", self, name, module)

    def register_module(self, name: str, module: Module | None) -> None:
        """`add_module` under another name."""
        self.add_module(name, module)

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
        prefix = f"{prefix}." if prefix else ""
        for name, module in self._modules.items():
            if module is not None:
                start = prefix + self._within + name
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
                yield (f"{start}." if start else "") + module._within + name, x

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
                (g.detach_() if g.grad_fn is not None else g.requires_grad_(False)).zero_()

    # ---- showing

    def _get_name(self) -> str:
        return type(self).__name__

    def extra_repr(self) -> str:
        """What a subclass shows between the parentheses of its repr."""
        return ""

    def __repr__(self) -> str:
        extra = self.extra_repr()
        lines = extra.split("\n") if extra else []
        children = [f"({name}): {_addindent(repr(m), 2)}" for name, m in self._modules.items()]
        if not children and len(lines) <= 1:
            return f"{self._get_name()}({extra})"
        return f"{self._get_name()}(\n  " + "\n  ".join(lines + children) + "\n)"


def _addindent(s_: str, numSpaces: int) -> str:
    """A text with all lines but the first moved to the right."""
    return s_.replace("\n", "\n" + " " * numSpaces)


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
    if isinstance(value, dict | tuple | list | set) and depth < 3:
        kind: Any = next(c for c in (dict, tuple, list, set) if isinstance(value, c))
        if kind.__len__(value) <= 64:  # whatever else its own class says of its length and elements
            items = dict.items(value) if isinstance(value, dict) else kind.__iter__(value)
            return tuple(_fact(v, depth + 1) for v in items)
    return id(value)


def _count(old: Any, new: Any) -> None:
    """Count a change of an attribute."""
    if new is not old:
        CONFIG_VERSION[0] += 1


def held(module: Module, classes: tuple[type, ...], *names: str) -> list[Any]:
    """Attributes of a module; where it is of just one of these classes from its table of parameters.

    An attribute that is looked for in vain before `__getattr__` is asked takes as long as a small kernel.
    """
    own = module.__dict__
    table = own["_parameters"]
    if module.__class__ in classes and own.keys().isdisjoint(table):
        try:
            return [table[n] for n in names]
        except KeyError:  # one of them is a plain attribute by now
            pass
    return [getattr(module, n) for n in names]


__all__ = [
    "CONFIG_VERSION", "_EXTRA_STATE_KEY_SUFFIX", "Buffer", "Module", "Parameter", "UninitializedBuffer", "UninitializedParameter",
    "_IncompatibleKeys", "_WrappedHook", "_addindent", "held", "is_lazy", "register_module_backward_hook",
    "register_module_buffer_registration_hook", "register_module_forward_hook",
    "register_module_forward_pre_hook", "register_module_full_backward_hook",
    "register_module_full_backward_pre_hook", "register_module_module_registration_hook",
    "register_module_parameter_registration_hook",
]  # fmt: skip
