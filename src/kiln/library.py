"""Ops that programs define themselves: `kiln.library.custom_op`; they are found as `kiln.ops.NAMESPACE.NAME`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import Any, get_args, get_origin

from .amp.autocast_mode import autocast, is_autocast_enabled
from .autograd.function import Function
from .dtypes import as_dtype
from .errors import KilnError, KilnValueError
from .refusal import refuse
from .tensor import Tensor

__all__ = [
    "CustomOpDef", "Library", "custom_op", "define", "get_ctx", "impl", "impl_abstract", "infer_schema", "opcheck",
    "register_autocast", "register_autograd", "register_fake", "register_kernel", "register_vmap",
]  # fmt: skip

refuse(
    __name__, "triton_op wrap_triton register_torch_dispatch fallthrough_kernel", "kernels of Triton and PyTorch's dispatcher",
    "kiln.library.custom_op with a function in NumPy or in tensors",
)  # fmt: skip

DEFINED: dict[str, dict[str, Any]] = {}
"""The ops of each namespace."""


class CustomOpDef:
    """An op that a program has defined: a function of tensors whose gradient, if any, is `register_autograd`'s."""

    def __init__(self, namespace: str, name: str, fn: Callable, mutates_args: Iterable[str] = ()):
        self._namespace, self._name, self._fn = namespace, name, fn
        self._opoverload = self.default = self
        self._mutates = tuple(mutates_args) if not isinstance(mutates_args, str) else ()
        self._backward: Callable | None = None
        self._setup: Callable | None = None
        self._signature = inspect.signature(fn)
        self.__name__, self.__doc__ = name, fn.__doc__
        self._function = self._made()

    def _made(self) -> type[Function]:
        op = self

        class Defined(Function):
            @staticmethod
            def forward(*args: Any) -> Any:
                return op._fn(*args)

            @staticmethod
            def setup_context(ctx: Any, inputs: tuple, output: Any) -> None:
                if op._setup is not None:
                    op._setup(ctx, inputs, output)

            @staticmethod
            def backward(ctx: Any, *grads: Any) -> Any:
                if op._backward is None:
                    raise KilnError(
                        f"{op._namespace}::{op._name}",
                        "this op has no gradient",
                        None,
                        "register_autograd gives it one",
                    )
                return op._backward(ctx, *grads)

        Defined.__name__ = self._name
        return Defined

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        if bound.kwargs:
            return self._fn(*args, **kwargs)
        if any(isinstance(a, Tensor) and a.requires_grad for a in bound.args):
            return self._function.apply(*bound.args)
        return self._fn(*bound.args)

    def register_fake(self, fn: Callable, /) -> Callable:
        """Say what shapes the op has; capture finds them itself."""
        return fn

    def register_kernel(self, device_types: Any, fn: Callable | None = None, /) -> Any:
        """What the op does on a device's tensors; of the CPU, it replaces the function."""

        def register(fn: Callable) -> Callable:
            kinds = (
                ["cpu"]
                if device_types is None
                else [device_types]
                if isinstance(device_types, str)
                else device_types
            )
            if "cpu" in kinds:
                self._fn = fn
            return fn

        return register if fn is None else register(fn)

    def register_autograd(
        self, backward: Callable, /, *, setup_context: Callable | None = None
    ) -> None:
        """Give the op a gradient: `backward(ctx, *grads)`, of what `setup_context(ctx, inputs, output)` kept."""
        self._backward, self._setup = backward, setup_context

    def register_vmap(self, func: Any = None) -> Any:
        """Say how the op is mapped; Kiln maps the ops that it is made of."""
        return func if func is not None else lambda f: f

    def __repr__(self) -> str:
        return f"<CustomOpDef({self._namespace}::{self._name})>"


def custom_op(
    name: str, fn: Callable | None = None, /, *, mutates_args: Any = (), device_types: Any = None, schema: str | None = None,
    tags: Any = None,
) -> Any:  # fmt: skip
    """Make a function an op of the name "namespace::name"; a decorator where no function is given.

    Its gradient is what `register_autograd` says, never that of the ops that it is made of. Source:
    torch.library.custom_op.
    """
    namespace, colons, short = name.partition("::")
    if not colons or not namespace or not short:
        raise KilnValueError(
            "custom_op", "a name has the form namespace::name", repr(name), "e.g. 'mylib::mul'"
        )

    def define(fn: Callable) -> CustomOpDef:
        out = CustomOpDef(namespace, short, fn, mutates_args)
        DEFINED.setdefault(namespace, {})[short] = out
        return out

    return define if fn is None else define(fn)


def _found(op: Any) -> CustomOpDef:
    if isinstance(op, CustomOpDef):
        return op
    namespace, _, short = str(op).partition("::")
    short = short.partition(".")[0]
    if short not in DEFINED.get(namespace, {}):
        raise KilnError(
            "library", "no such op", repr(op), "define it first: kiln.library.custom_op"
        )
    return DEFINED[namespace][short]


def register_fake(
    op: Any,
    func: Callable | None = None,
    /,
    *,
    lib: Any = None,
    _stacklevel: int = 1,
    allow_override: bool = False,
) -> Any:
    """Say what shapes an op has; capture finds them itself."""
    _found(op)
    return func if func is not None else lambda f: f


impl_abstract = register_fake


def register_autograd(
    op: Any, backward: Callable, /, *, setup_context: Callable | None = None, lib: Any = None
) -> None:
    """Give an op a gradient, see `CustomOpDef.register_autograd`."""
    _found(op).register_autograd(backward, setup_context=setup_context)


def register_kernel(
    op: Any, device_types: Any, func: Callable | None = None, /, *, lib: Any = None
) -> Any:
    """What an op does on a device's tensors."""
    return _found(op).register_kernel(device_types, func)


def impl(op: Any, types: Any, func: Callable | None = None, *, lib: Any = None) -> Any:
    """What an op does on a device's tensors."""
    kinds = {
        "CPU": "cpu",
        "CompositeExplicitAutograd": "cpu",
        "CompositeImplicitAutograd": "cpu",
        "default": "cpu",
    }
    given = [types] if isinstance(types, str) else types
    return _found(op).register_kernel([kinds.get(t, t.lower()) for t in given], func)


def define(qualname: str, schema: str, *, lib: Any = None, tags: Any = ()) -> None:
    """Define an op "namespace::name" by its schema "(Tensor x) -> Tensor"; `impl` gives it a function."""
    namespace, _, name = qualname.partition("::")
    Library(namespace, "FRAGMENT").define(name + schema)


def register_vmap(op: Any, func: Any = None, /, *, lib: Any = None) -> Any:
    """Say how an op is mapped; Kiln maps the ops that it is made of."""
    return _found(op).register_vmap(func)


def register_autocast(op: Any, device_type: str, cast_inputs: Any, /, *, lib: Any = None) -> None:
    """Have an op take its floating arguments in this dtype inside of `autocast`."""
    made, ours = _found(op), as_dtype(cast_inputs)
    fn = made._fn

    def cast(*args: Any, **kwargs: Any) -> Any:
        if is_autocast_enabled(device_type):
            args = tuple(
                a.to(ours) if isinstance(a, Tensor) and a.is_floating_point() else a for a in args
            )
            with autocast(device_type, enabled=False):
                return fn(*args, **kwargs)
        return fn(*args, **kwargs)

    made._fn = cast


_KINDS = {Tensor: "Tensor", int: "SymInt", float: "float", bool: "bool", str: "str"}


def infer_schema(
    prototype_function: Callable, /, *, mutates_args: Any = (), op_name: str | None = None
) -> str:
    """The schema of an op from the annotations of a function: "(Tensor x, float y=1.0) -> Tensor"."""
    signature = inspect.signature(prototype_function, eval_str=True)
    changed = set(signature.parameters) if mutates_args == "unknown" else set(mutates_args)

    def kind(t: Any, name: str) -> str:
        if t in _KINDS:
            return _KINDS[t]
        inner = [a for a in get_args(t) if a is not type(None)]
        if type(None) in get_args(t) and len(inner) == 1:
            return kind(inner[0], name) + "?"
        if get_origin(t) in (list, Sequence) and len(inner) == 1:
            return kind(inner[0], name) + "[]"
        if get_origin(t) is tuple:
            return f"({', '.join(kind(a, name) for a in inner)})"
        raise KilnValueError(
            "infer_schema", f"Parameter {name} has an unsupported type", repr(t), "annotate it"
        )

    parts, star = [], False
    for p in signature.parameters.values():
        text = kind(p.annotation, p.name)
        if p.name in changed and text.startswith("Tensor"):
            text = text.replace("Tensor", f"Tensor(a{len(parts)}!)", 1)
        if p.kind is p.KEYWORD_ONLY and not star:
            parts.append("*")
            star = True
        default = (
            ""
            if p.default is p.empty
            else f'="{p.default}"'
            if isinstance(p.default, str)
            else f"={p.default}"
        )
        parts.append(f"{text} {p.name}{default}")
    result = signature.return_annotation
    return f"{op_name or ''}({', '.join(parts)}) -> {'()' if result is None else kind(result, 'return')}"


def opcheck(
    op: Any, args: tuple, kwargs: dict[str, Any] | None = None, *, test_utils: Any = (), raise_exception: bool = True,
    atol: float | None = None, rtol: float | None = None,
) -> dict[str, str]:  # fmt: skip
    """Try an op: that it leaves arguments alone that it does not say it changes, and gives the same when it is captured.

    Gives "SUCCESS" for each of PyTorch's checks; raises what is wrong, or gives that with `raise_exception=False`.
    """
    from .compile import compile

    made, given = _found(op), kwargs or {}
    names = list(made._signature.parameters)
    tests = (
        "test_schema",
        "test_autograd_registration",
        "test_faketensor",
        "test_aot_dispatch_dynamic",
    )
    try:
        before = [a._version if isinstance(a, Tensor) else None for a in args]
        want = made(*args, **given)
        for name, a, version in zip(names, args, before, strict=False):
            if version is not None and a._version != version and name not in made._mutates:
                raise KilnError(
                    "opcheck",
                    f"argument {name} was changed in place",
                    made._name,
                    "name it in mutates_args",
                )
        if not made._mutates:
            got = compile(lambda *a: made(*a, **given))(*args)
            for x, y in zip(
                *([v] if isinstance(v, Tensor) else list(v) for v in (got, want)), strict=True
            ):
                if (
                    isinstance(x, Tensor)
                    and not x.isclose(y, rtol or 1e-5, atol or 1e-6, True).all().item()
                ):
                    raise KilnError(
                        "opcheck",
                        "the op gives something else where it is captured",
                        made._name,
                        "",
                    )
    except Exception as e:
        if raise_exception:
            raise
        return dict.fromkeys(tests, str(e))
    return dict.fromkeys(tests, "SUCCESS")


def get_ctx() -> Any:
    """What functions of `register_fake` ask for sizes that depend on values: Kiln calls no such function."""
    raise KilnError("library.get_ctx", "no function of shapes is being called", None, "")


class Library:
    """A namespace of ops, which are defined by a schema and given functions for devices."""

    def __init__(self, ns: str, kind: str, dispatch_key: str = ""):
        self.ns, self.kind, self.dispatch_key = ns, kind, dispatch_key

    def define(self, schema: str, alias_analysis: str = "", *, tags: Any = ()) -> str:
        """Define an op by its schema: "name(Tensor x) -> Tensor"."""
        name = schema.partition("(")[0].strip()

        def missing(*args: Any) -> Any:
            raise KilnError(
                f"{self.ns}::{name}",
                "this op has no function for the CPU",
                None,
                "impl() gives it one",
            )

        custom_op(f"{self.ns}::{name}", missing)
        return name

    def impl(
        self, op_name: Any, fn: Callable, dispatch_key: str = "", *, with_keyset: bool = False
    ) -> None:
        """Give an op a function for a device."""
        name = op_name if isinstance(op_name, str) else op_name._name
        name = name.rpartition("::")[2]
        op = _found(f"{self.ns}::{name}")
        key = dispatch_key or self.dispatch_key
        if key in ("", "CPU", "CompositeExplicitAutograd", "CompositeImplicitAutograd"):
            op._fn, op._signature = fn, inspect.signature(fn)


def namespace(name: str) -> Any:
    """The ops of a namespace, as attributes."""
    return SimpleNamespace(**DEFINED[name])
