"""`Layer`: a module with Keras's life: `build` makes the weights when the first input is there, `call` computes.

https://keras.io/api/layers/base_layer/
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from threading import local
from typing import Any

import numpy as np

from ..autograd.modes import no_grad
from ..errors import KilnNotImplementedError, KilnTypeError, KilnValueError, describe
from ..nn.modules.module import Module
from ..nn.parameter import Parameter
from ..ops.creation import as_tensor
from ..tensor import Tensor
from . import constraints, initializers, regularizers
from .configured import Configured, accepted, arguments, snake
from .dtypes import name_of, to_dtype
from .symbolic import (
    KerasTensor,
    Node,
    call,
    inferred,
    mapped,
    nodes_of,
    shape_of,
    symbols,
    tensors,
    unique,
)


class Variable(Parameter):
    """A weight: a parameter, or a state where it is not `trainable`, that `assign` gives new values."""

    def __new__(
        cls, initializer: Any, shape: Sequence[int] | None = None, dtype: Any = None, trainable: bool = True,
        name: str | None = None, **other: Any,
    ) -> Any:  # fmt: skip
        if shape is not None or isinstance(initializer, str | initializers.Initializer):
            data = initializers.get(initializer)(shape or (), dtype)
        else:
            data = as_tensor(initializer, None if dtype is None else to_dtype(dtype)).detach().clone()  # fmt: skip
        trainable = trainable and data.is_floating_point()
        out = Parameter.__new__(cls, data, trainable)
        vars(out)["_label"] = name or "variable"
        return out

    @property
    def name(self) -> str:
        """Its name."""
        return vars(self).get("_label", "variable")

    def __deepcopy__(self, memo: dict) -> Any:
        if id(self) not in memo:
            memo[id(self)] = Variable(self.detach(), trainable=self.requires_grad, name=self.name)  # fmt: skip
        return memo[id(self)]

    def assign(self, value: Any) -> Variable:
        """Take a value over, in place."""
        with no_grad():
            self.copy_(as_tensor(value))
        return self

    def assign_add(self, value: Any) -> Variable:
        """Add a value, in place."""
        with no_grad():
            self.add_(as_tensor(value))
        return self

    def assign_sub(self, value: Any) -> Variable:
        """Take a value away, in place."""
        with no_grad():
            self.sub_(as_tensor(value))
        return self

    def numpy(self, *, force: bool = False) -> np.ndarray:
        """The values, of a trainable variable too."""
        return self.detach().as_subclass(Tensor).numpy(force=force)

    @property
    def value(self) -> Variable:
        """Itself."""
        return self

    @property
    def trainable(self) -> bool:
        """Whether it requires a gradient."""
        return self.requires_grad

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self.requires_grad_(value)


class _Now(local):
    depth = 0
    adds = False


NOW = _Now()
LEGACY = "input_shape", "input_dim", "batch_shape", "batch_input_shape", "input_length"


class Layer(Module, Configured):
    """A module whose weights `build(input_shape)` makes, by `add_weight`, and whose `call` computes.

    `call` is given `training` (whether the module is in training mode) and `mask` (that of its first input) where it has such parameters.
    Called with symbolic tensors it becomes part of a functional model. A layer is in evaluation mode unless `fit` trains it, or it
    is called with `training=True`, as in Keras.
    """

    supports_masking = False

    def __init__(
        self, *, activity_regularizer: Any = None, trainable: bool = True, dtype: Any = None, name: str | None = None,
        input_shape: Any = None, input_dim: int | None = None, batch_shape: Any = None, batch_input_shape: Any = None, **other: Any,
    ) -> None:  # fmt: skip
        unknown = set(other) - {"autocast", "input_length"}
        if unknown:
            raise KilnTypeError(type(self).__name__, "there is no such option", describe(min(unknown)), "see its signature")  # fmt: skip
        Module.__init__(self)
        self.training = False
        own = self.__dict__
        own["name"] = name or unique(snake(type(self).__name__))
        own["built"], own["_trainable"] = False, trainable
        own["_dtype"] = name_of(dtype)
        own["_added"] = []
        own["_regularized"], own["_constrained"] = {}, {}
        own["activity_regularizer"] = regularizers.get(activity_regularizer)
        own["_given_shape"] = _given_shape(input_shape, input_dim, batch_shape or batch_input_shape)

    # ---- weights

    def add_weight(
        self, shape: Sequence[int] | None = None, initializer: Any = None, dtype: Any = None, trainable: bool = True,
        regularizer: Any = None, constraint: Any = None, name: str | None = None, **other: Any,
    ) -> Variable:  # fmt: skip
        """A new weight, a parameter or (`trainable=False`) a buffer; without an initializer Glorot's uniform."""
        dtype = to_dtype(dtype or self._dtype)
        given = initializer
        if given is None:
            given = "glorot_uniform" if dtype.is_floating_point else "zeros"
        data = initializers.get(given)(tuple(shape or ()), dtype)
        made = Variable(data, trainable=trainable, name=name)
        key = _free(self, name or "variable")
        if made.requires_grad:
            made.requires_grad_(self._trainable)
            self._parameters[key] = made
        else:
            self._buffers[key] = made
        if (found := regularizers.get(regularizer)) is not None:
            self._regularized[id(made)] = made, found
        if (found := constraints.get(constraint)) is not None:
            self._constrained[id(made)] = made, found
        return made

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Variable):
            table = self._parameters if value.requires_grad or id(value) in map(id, self._parameters.values()) else self._buffers  # fmt: skip
            known = next((k for k, v in table.items() if v is value), None)
            self.__dict__.pop(name, None)
            if known == name:
                return
            if known is None:
                table[name] = value
            else:  # in the place it has, under the attribute's name
                items = [(name if k == known else k, v) for k, v in table.items()]
                table.clear()
                table.update(items)
            return
        if isinstance(value, list | dict) and not name.startswith("_"):
            if isinstance(value, list) and (not value or any(isinstance(x, Module | Variable | list) for x in value)):  # fmt: skip
                value = _Tracked(self, name, value)
            if isinstance(value, dict):
                for k, v in value.items():
                    _hold(self, f"{name}_{k}", v)
        super().__setattr__(name, value)

    @property
    def trainable(self) -> bool:
        """Whether its weights are trained; setting it sets all of the layers inside."""
        return self._trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        for m in self.modules():
            m.__dict__["_trainable"] = value
            for p in m._parameters.values():
                if p is not None:
                    p.requires_grad_(value)

    @property
    def weights(self) -> list[Any]:
        """All weights: of each layer first those that are trained, then its states."""
        return _unique(w for m in self.modules() for w in _own(m))

    @property
    def trainable_weights(self) -> list[Any]:
        """Those that are trained."""
        return [w for w in self.weights if w.requires_grad]

    @property
    def non_trainable_weights(self) -> list[Any]:
        """The others."""
        return [w for w in self.weights if not w.requires_grad]

    variables = weights
    trainable_variables = trainable_weights
    non_trainable_variables = non_trainable_weights

    def get_weights(self) -> list[np.ndarray]:
        """The values of `weights`."""
        return [w.detach().numpy().copy() for w in self.weights]

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Take such values; ValueError where number or shapes differ."""
        own = self.weights
        if len(weights) != len(own) or any(tuple(np.shape(w)) != tuple(t.shape) for w, t in zip(weights, own, strict=False)):  # fmt: skip
            raise KilnValueError(
                "set_weights", f"the weights are not those of this {'model' if hasattr(self, 'fit') else 'layer'}",
                f"shapes {[tuple(np.shape(w)) for w in weights]}", f"expected {[tuple(t.shape) for t in own]}",
            )  # fmt: skip
        with no_grad():
            for w, t in zip(weights, own, strict=True):
                t.copy_(as_tensor(w))

    def count_params(self) -> int:
        """How many numbers the weights hold."""
        return sum(t.numel() for t in self.weights)

    # ---- losses

    def add_loss(self, loss: Any) -> None:
        """Have a number added to the loss of the model that this layer is called in."""
        NOW.adds = True
        self._added.append(loss)

    @property
    def losses(self) -> list[Any]:
        """What `add_loss` added in the latest call, and the penalties of regularizers."""
        inside = [m for m in self.modules() if isinstance(m, Layer)]
        added = [x() if callable(x) and not isinstance(x, Tensor) else x for m in inside for x in m._added]  # fmt: skip
        return added + [r(w) for m in inside for w, r in m._regularized.values() if w.requires_grad]

    # ---- call

    def build(self, input_shape: Any) -> None:
        """Make the weights; layers inside are built when they are called."""

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """What the layer computes."""
        raise KilnNotImplementedError(type(self).__name__, "there is nothing to compute", type(self).__name__, "define call(self, inputs)")  # fmt: skip

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if any(True for _ in symbols((args, kwargs))):
            return call(self, args, kwargs, self._run)
        return self._run(*tensors(args), **tensors(kwargs))

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        """A call on tensors, in the mode that `training` says."""
        training = kwargs.get("training")
        if "training" in kwargs and not call_names(type(self).call).known("training"):
            del kwargs["training"]
        if training is None or bool(training) == self.training:
            return Module.__call__(self, *args, **kwargs)
        was = [(m, m.training) for m in self.modules()]
        self.train(bool(training))
        try:
            return Module.__call__(self, *args, **kwargs)
        finally:
            for m, mode in was:
                m.training = mode

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """`build` where that is still to do, then `call`, with masks handed on."""
        names = call_names(type(self).call)
        if not self.built:
            self._build(args, kwargs, names)
        if names.training and kwargs.get("training") is None and "training" not in names.given(args):  # fmt: skip
            kwargs["training"] = self.training
        masks = mapped(args[0], mask_of) if args else None
        if names.masks:
            given = names.given(args)
            for name, of in names.masks.items():
                if kwargs.get(name) is None and name not in given and (of in given or of in kwargs):
                    kwargs[name] = mapped(given.get(of, kwargs.get(of)), mask_of)
        if NOW.adds and NOW.depth == 0:
            for m in self.modules():
                if isinstance(m, Layer):
                    m._added.clear()
        NOW.depth += 1
        try:
            out = self.call(*args, **kwargs)
        finally:
            NOW.depth -= 1
        if self.activity_regularizer is not None:
            for x in out if isinstance(out, list | tuple) else [out]:
                self.add_loss(self.activity_regularizer(x) / x.shape[0])
        if args and (type(self).compute_mask is not Layer.compute_mask or (self.supports_masking and _any(masks))):  # fmt: skip
            _attach(out, self.compute_mask(args[0], kwargs.get("mask") if kwargs.get("mask") is not None else masks))  # fmt: skip
        return out

    def _build(self, args: tuple, kwargs: dict[str, Any], names: _Names) -> None:
        self.__dict__["built"] = True
        shapes = [shape_of(a) for a in args[:1]]
        wanted = inspect.signature(self.build).parameters
        given = {f"{k}_shape": shape_of(v) for k, v in {**names.given(args), **kwargs}.items() if isinstance(v, Tensor | list | tuple | dict)}  # fmt: skip
        if len(wanted) > 1 or any(n in given for n in wanted):
            self.build(**{n: given[n] for n in wanted if n in given})
        elif shapes:
            self.build(shapes[0])
        self.__dict__["built"] = True
        self.__dict__["_build_shapes"] = shapes[0] if shapes else None

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        """The mask of the outputs; those of layers that hand masks on are that of the input."""
        return previous_mask

    def compute_output_shape(self, *shapes: Any, **named: Any) -> Any:
        """The output's shape for inputs of a shape, None where anything goes."""
        symbolic = [_of_shape(s) for s in shapes]
        named = {k.removesuffix("_shape"): _of_shape(s) for k, s in named.items()}
        return shape_of(inferred(self._run, tuple(symbolic), named))

    def stateless_call(self, trainable: Sequence[Any], states: Sequence[Any], *args: Any, **kwargs: Any) -> Any:  # fmt: skip
        """Refused: `kiln.func.functional_call` is the way here."""
        raise KilnNotImplementedError("stateless_call", "it is not there", type(self).__name__, "kiln.func.functional_call(layer, dict(layer.named_parameters()), inputs)")  # fmt: skip

    # ---- in a functional model

    def _node(self) -> Node:
        nodes = nodes_of(self)
        if len(nodes) != 1:
            raise KilnValueError(
                type(self).__name__, f"the layer was called {len(nodes)} times on symbolic tensors", self.name,
                "call it on an Input once, or give the model a known input shape",
            )  # fmt: skip
        return nodes[0]

    @property
    def input(self) -> Any:
        """The symbolic tensor that it was called with."""
        found = self._node().inputs
        return found[0] if len(found) == 1 else found

    @property
    def output(self) -> Any:
        """The symbolic tensor that it gave."""
        found = self._node().outputs
        return found[0] if len(found) == 1 else found

    @property
    def dtype(self) -> str:
        """The dtype of its weights."""
        return self._dtype

    compute_dtype = variable_dtype = dtype

    # ---- configuration

    def get_config(self) -> dict[str, Any]:
        """What `from_config` makes the same layer of, with other weights."""
        found = arguments(self) if type(self).__init__ is not Layer.__init__ else {}
        own = inspect.signature(type(self).__init__).parameters
        common = {"name": self.name, "trainable": self._trainable, "dtype": self._dtype}
        usual = [k for k, v in found.items() if v is None and k in own and own[k].default is None]
        return {**common, **{k: v for k, v in found.items() if k not in (*common, *usual) and (k in own or k not in LEGACY)}}  # fmt: skip

    @classmethod
    def from_config(cls, config: Any) -> Any:
        """A layer like that which gave the config."""
        return cls(**accepted(cls, config))

    def get_build_config(self) -> dict[str, Any] | None:
        """The shape it was built for."""
        return {"input_shape": self.__dict__.get("_build_shapes")} if self.built else None


def _of_shape(shape: Any) -> Any:
    if isinstance(shape, list) and shape and isinstance(shape[0], list | tuple):
        return [_of_shape(s) for s in shape]
    if isinstance(shape, dict):
        return {k: _of_shape(s) for k, s in shape.items()}
    return KerasTensor(shape)


def _given_shape(input_shape: Any, input_dim: Any, whole: Any) -> tuple | None:
    """What `input_shape` and its like, of older programs, say of a first layer's input."""
    if whole is not None:
        return tuple(whole)
    if input_dim is not None:
        return (None, input_dim)
    return None if input_shape is None else (None, *input_shape)


class _Names:
    """What parameters `call` has."""

    def __init__(self, fn: Callable) -> None:
        found = list(inspect.signature(fn).parameters.values())[1:]
        self.free = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in found)
        self.several = sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.name not in ("training", "mask") for p in found)  # fmt: skip
        self.any = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in found)
        self.names = [p.name for p in found if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        self.training = "training" in self.names
        self.masks = {n: self.names[0] if n == "mask" else n[:-5] for n in self.names if n == "mask" or (n.endswith("_mask") and n[:-5] in self.names)}  # fmt: skip

    def known(self, name: str) -> bool:
        return self.free or name in self.names

    def given(self, args: Iterable[Any]) -> dict[str, Any]:
        return dict(zip(self.names, args, strict=False))


call_names = lru_cache(maxsize=4096)(_Names)


def mask_of(x: Any) -> Any:
    """The mask that a tensor carries."""
    return getattr(x, "_keras_mask", None)


def _any(masks: Any) -> bool:
    if isinstance(masks, list | tuple):
        return any(map(_any, masks))
    return masks is not None


def _attach(out: Any, mask: Any) -> None:
    if isinstance(out, Tensor):
        if isinstance(mask, list | tuple):
            mask = next((m for m in mask if m is not None), None)
        if mask is not None or mask_of(out) is not None:
            vars(out)["_keras_mask"] = mask
    elif isinstance(out, list | tuple):
        several = mask if isinstance(mask, list | tuple) else [mask] * len(out)
        for x, m in zip(out, several, strict=False):
            _attach(x, m)


def _free(layer: Module, name: str) -> str:
    """A key that no weight has."""
    name = name.replace(".", "_").replace("/", "_")
    taken = {*layer._parameters, *layer._buffers}
    n, key = 0, name
    while key in taken:
        n += 1
        key = f"{name}_{n}"
    return key


def _own(m: Module) -> list[Any]:
    return [w for w in (*m._parameters.values(), *m._buffers.values()) if w is not None]


def _unique(found: Iterable[Any]) -> list[Any]:
    return list({id(x): x for x in found}.values())


def _hold(layer: Module, key: str, value: Any) -> None:
    """Know a layer that stands in a container."""
    if isinstance(value, Module):
        layer._modules[key] = value
    elif isinstance(value, Variable):
        (layer._parameters if value.requires_grad else layer._buffers).setdefault(key, value)
    elif isinstance(value, list | tuple):
        for i, v in enumerate(value):
            _hold(layer, f"{key}_{i}", v)


class _Tracked(list):
    """A list in an attribute of a layer, which knows the layers that come into it."""

    def __init__(self, layer: Module, name: str, items: Iterable[Any]) -> None:
        super().__init__(items)
        self._owner, self._name = layer, name
        self._note()

    def _note(self) -> None:
        for i, x in enumerate(self):
            _hold(self._owner, f"{self._name}_{i}", x)

    def append(self, item: Any) -> None:
        super().append(item)
        self._note()

    def extend(self, items: Iterable[Any]) -> None:
        super().extend(items)
        self._note()

    def __iadd__(self, items: Iterable[Any]) -> Any:  # type: ignore[override]
        self.extend(items)
        return self

    def __reduce__(self) -> Any:
        return list, (list(self),)


__all__ = ["NOW", "Layer", "Variable", "call_names", "mask_of"]
