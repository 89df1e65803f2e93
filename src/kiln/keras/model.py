"""`Model` and `Sequential`: graphs of layers, or modules with a `call` of their own, with Keras's `compile`, `fit`, `evaluate` and `predict`.

https://keras.io/api/models/
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from .. import nn
from ..compile.pytree import flatten
from ..errors import KilnError, KilnTypeError, KilnValueError, describe
from ..nn.modules.module import Module
from ..tensor import Tensor
from .dtypes import to_dtype
from .layer import NOW, Layer, call_names
from .symbolic import KerasTensor, Node, connected, replaced, symbols, unique
from .training import COMPILED, Training


class Graph:
    """A functional model's calls, from inputs to outputs."""

    def __init__(self, inputs: Any, outputs: Any) -> None:
        self.inputs, self.outputs = inputs, outputs
        self.starts: list[Any] = []
        flatten(inputs, self.starts)
        ends: list[Any] = []
        flatten(outputs, ends)
        for t in (*self.starts, *ends):
            if not isinstance(t, KerasTensor):
                raise KilnTypeError(
                    "Model", "inputs and outputs are symbolic tensors", describe(t), "x = keras.Input((784,)); Model(x, layers.Dense(10)(x))"
                )  # fmt: skip
        self.nodes, self.operations = connected(self.starts, ends)
        names = [t.name for t in self.starts]
        if len(set(names)) != len(names):
            raise KilnValueError("Model", "two inputs have one name", describe(names), "Input(…, name=…)")  # fmt: skip

    def run(self, given: Sequence[Any]) -> Any:
        """The outputs for inputs as they come: one, several, a list of them, or a dict by name."""
        if len(given) == 1 and isinstance(given[0], Mapping):
            found = self._named(given[0])
        else:
            found = []
            flatten(given, found)
        if len(found) != len(self.starts):
            raise KilnValueError(
                "Model", f"the model has {len(self.starts)} inputs", f"{len(found)} of them", "in order: " + ", ".join(t.name for t in self.starts)
            )  # fmt: skip
        values = {id(t): _as(x, t) for t, x in zip(self.starts, found, strict=True)}
        for node in self.nodes:
            node.run(values)
        return replaced(self.outputs, lambda t: values[id(t)])

    def _named(self, given: Mapping[str, Any]) -> list[Any]:
        by_key = {id(t): k for k, t in self.inputs.items()} if isinstance(self.inputs, Mapping) else {}  # fmt: skip
        out = []
        for t in self.starts:
            key = by_key.get(id(t), t.name)
            key = key if key in given else t.name
            if key not in given:
                raise KilnValueError("Model", f"there is no input {key!r}", describe(sorted(given)), "give each by its name")  # fmt: skip
            out.append(given[key])
        return out


def _as(x: Any, t: KerasTensor) -> Any:
    """A value as an Input takes it: in its dtype, and with a last dimension of 1 where that is left out."""
    dtype = to_dtype(t.dtype)
    if isinstance(x, Tensor) and x.dtype is not dtype and dtype.is_floating_point:
        x = x.to(dtype)
    if isinstance(x, Tensor) and x.ndim + 1 == len(t.shape) and t.shape[-1] == 1:
        x = x.unsqueeze(-1)
    if isinstance(x, Tensor) and (
        x.ndim != len(t.shape) or any(d not in (None, n) for d, n in zip(t.shape, x.shape, strict=True))
    ):  # fmt: skip
        raise KilnValueError("Model", f"the input {t.name!r} has another shape", describe(x), f"shape {t.shape}")  # fmt: skip
    return x


class Model(Training):
    """A model: `Model(inputs, outputs)` of symbolic tensors, a subclass with `call(self, inputs)` (or `forward`), or `Model(module)`
    around any nn.Module.

    Arrays of float64 are taken as float32 and bytes as float32, as Keras takes them.
    """

    def __init__(
        self, inputs: Any = None, outputs: Any = None, name: str | None = None, **options: Any
    ) -> None:  # fmt: skip
        Layer.__init__(self, name=name, **options)
        if isinstance(inputs, Module) and outputs is None:
            self.module = inputs
        elif inputs is not None or outputs is not None:
            self._become(Graph(inputs, outputs))

    def _become(self, graph: Graph) -> None:
        self.__dict__["_graph"] = graph
        self.__dict__["built"] = True
        for layer in graph.operations:
            if isinstance(layer, Module) and not isinstance(layer, InputLayer):
                if self._modules.get(layer.name, layer) is not layer:
                    raise KilnValueError("Model", "two layers have one name", repr(layer.name), "name them apart")  # fmt: skip
                self._modules[layer.name] = layer

    @property
    def _known(self) -> Graph | None:
        return self.__dict__.get("_graph")

    def call(self, *inputs: Any, **options: Any) -> Any:
        """What the graph or the wrapped module computes."""
        if self._known is not None:
            return self._known.run(inputs)
        if "module" in self._modules:
            return self.module(*inputs)
        raise KilnError("Model", "there is nothing to compute", type(self).__name__, "define call(self, inputs)")  # fmt: skip

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        names = call_names(type(self).call)
        if len(args) > 1 and names.several == 1 and not names.any and all(isinstance(x, Tensor) for x in args):  # fmt: skip
            args = (list(args),)  # several inputs are one argument, as in Keras
        return super()._run(*args, **kwargs)

    # ---- what it is made of

    @property
    def layers(self) -> list[Any]:
        """The layers at the top, those of the inputs too."""
        if self._known is not None:
            return [o for o in self._known.operations if isinstance(o, Module)]
        return list(dict.fromkeys(self._modules.values()))

    def get_layer(self, name: str | None = None, index: int | None = None) -> Any:
        """A layer by name or place; ValueError where there is none."""
        layers = self.layers
        if index is not None and -len(layers) <= index < len(layers):
            return layers[index]
        for layer in layers:
            if name is not None and getattr(layer, "name", None) == name:
                return layer
        raise KilnValueError(
            "get_layer", "there is no such layer", describe(name if index is None else index),
            "one of " + ", ".join(str(getattr(x, "name", "?")) for x in layers),
        )  # fmt: skip

    def _of_graph(self, what: str) -> Any:
        if self._known is None:
            raise KilnError("Model", f"there are no {what} before shapes are known", self.name, "give the model an Input, or call it once")  # fmt: skip
        return self._known

    @property
    def inputs(self) -> list[KerasTensor]:
        """The symbolic tensors of the inputs."""
        return self._of_graph("inputs").starts

    @property
    def outputs(self) -> list[KerasTensor]:
        """Those of the outputs."""
        return list(symbols(self._of_graph("outputs").outputs))

    @property
    def input(self) -> Any:
        """The inputs, as they were given."""
        return self._of_graph("inputs").inputs

    @property
    def output(self) -> Any:
        """The outputs, as they were given."""
        return self._of_graph("outputs").outputs

    @property
    def input_shape(self) -> Any:
        """The shape of the input, or the list of them."""
        found = [t.shape for t in self.inputs]
        return found[0] if len(found) == 1 else found

    @property
    def output_shape(self) -> Any:
        """The shape of the output, or the list of them."""
        found = [t.shape for t in self.outputs]
        return found[0] if len(found) == 1 else found

    @property
    def output_names(self) -> list[str]:
        """The names of the layers that give the outputs."""
        return [t.node.operation.name for t in self.outputs if t.node is not None]

    def build(self, input_shape: Any = None) -> None:
        """Make the weights for inputs of a shape, with the batch: `model.build((None, 784))`."""
        if self._known is None and input_shape is not None and not self._building():
            self.compute_output_shape(input_shape)

    def _building(self) -> bool:
        """Whether `build` is called on the way of a call, which makes the weights anyway."""
        return NOW.depth > 0 or self.built

    def summary(self, input_shape: Any = None, **options: Any) -> None:
        """Print the layers, shapes and parameters as Keras does (`expand_nested`, `show_trainable`, `print_fn`); with `input_shape` (that of a
        batch), and for models of Kiln's modules, `kiln.summary`, whose options these are then.
        """
        from .drawing import print_summary

        last = self.__dict__["_keras"].last_args if "_keras" in self.__dict__ else None
        if input_shape is None and (self._known is not None or any(isinstance(m, Layer) for m in self.modules() if m is not self)):  # fmt: skip
            print_summary(self, **options)
            return
        from ..inspection import summary

        found = input_shape
        if found is None and last is not None:
            found = tuple(last) if len(last) > 1 else last[0]
        if found is None:
            raise KilnValueError("summary", "the input's shape is not known yet", "input_shape=None", "model.summary((32, 784))")  # fmt: skip
        print(summary(self, found, **options))

    # ---- files

    def save_weights(self, filepath: str | os.PathLike[str], overwrite: bool = True) -> None:
        """Write the weights: to Keras's own `….weights.h5` (needs h5py), else by `kiln.save`: at once, checksummed, without pickle."""
        from .saving import save_weights

        save_weights(self, filepath, overwrite)

    def load_weights(self, filepath: str | os.PathLike[str], skip_mismatch: bool = False) -> None:
        """Read what `save_weights` or Keras's wrote (`.weights.h5`, `.keras`), or the model of a checkpoint."""
        from .saving import load_weights

        load_weights(self, filepath, skip_mismatch)

    def save(self, filepath: str | os.PathLike[str], overwrite: bool = True) -> None:
        """Write architecture and weights as a `.keras` file (needs h5py), which Keras reads, too."""
        from .saving import save_model

        save_model(self, filepath, overwrite)

    def to_json(self, **options: Any) -> str:
        """The architecture as Keras writes it."""
        import json

        from .saving import serialize

        return json.dumps(serialize(self), **options)

    def get_config(self) -> dict[str, Any]:
        """The graph, or the arguments of a subclass."""
        from .saving import graph_config

        return graph_config(self) if self._known is not None and type(self) is Model else super().get_config()  # fmt: skip

    @classmethod
    def from_config(cls, config: Any, custom_objects: Any = None) -> Any:
        """A model like that which gave the config, with new weights."""
        from .configured import knowing
        from .saving import graph_from

        with knowing(custom_objects):
            return graph_from(config) if "input_layers" in config else super().from_config(config)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in super().__getstate__().items() if k not in COMPILED}


class InputLayer(Layer):
    """Where data comes in: the layer behind `Input`."""

    def __init__(
        self, shape: Any = None, batch_size: int | None = None, dtype: Any = None, batch_shape: Any = None,
        name: str | None = None, **other: Any,
    ) -> None:  # fmt: skip
        super().__init__(name=name or unique("input_layer"), dtype=dtype)
        if (shape is None) == (batch_shape is None):
            raise KilnValueError("Input", "a shape is needed", describe(shape), "Input(shape=(784,)), or Input(batch_shape=(32, 784))")  # fmt: skip
        shape = tuple(batch_shape) if shape is None else (batch_size, *((shape,) if isinstance(shape, int) else shape))  # fmt: skip
        self.__dict__["batch_shape"], self.__dict__["built"] = shape, True
        Node(self, (), {}, KerasTensor(shape, dtype or "float32", self.name))

    def call(self) -> None:
        """Nothing."""

    def get_config(self) -> dict[str, Any]:
        """Shape, dtype and name."""
        return {"batch_shape": self.batch_shape, "dtype": self._dtype, "sparse": False, "ragged": False, "name": self.name}  # fmt: skip


def Input(
    shape: Any = None, batch_size: int | None = None, dtype: Any = None, sparse: bool | None = None, batch_shape: Any = None,
    name: str | None = None, tensor: Any = None, optional: bool = False,
) -> KerasTensor:  # fmt: skip
    """A symbolic tensor of `(batch_size, *shape)` from which a functional model begins."""
    if tensor is not None:
        return tensor
    return InputLayer(shape, batch_size, dtype, batch_shape, name).output


class Sequential(Model):
    """Layers one after the other: `Sequential([Input((4,)), Dense(8, "relu"), Dense(1)])`, with `add` and `pop`; modules of `kiln.nn` go, too.

    Without an Input the weights are made with the first data.
    """

    def __init__(self, layers: Iterable[Any] | Module | None = None, *more: Module, name: str | None = None, trainable: bool = True) -> None:  # fmt: skip
        Model.__init__(self, name=name or unique("sequential"), trainable=trainable)
        self.__dict__["_start"], self.__dict__["_ends"] = None, []
        for layer in [layers, *more] if isinstance(layers, Module) else list(layers or ()):
            self.add(layer)

    def add(self, layer: Any, rebuild: bool = True) -> None:
        """Put a layer at the end."""
        if isinstance(layer, InputLayer):
            layer = layer.output
        if isinstance(layer, KerasTensor):
            self.__dict__["_start"] = layer
            return
        if not isinstance(layer, Module):
            raise KilnTypeError("Sequential", "not a layer", describe(layer), "a layer of kiln.keras.layers, or an nn.Module")  # fmt: skip
        if not self._modules and getattr(layer, "_given_shape", None) is not None and self._start is None:  # fmt: skip
            self.__dict__["_start"] = Input(batch_shape=layer._given_shape)
        if self._start is None and not self._modules and isinstance(layer, Model) and layer._known is not None and len(layer.inputs) == 1:  # fmt: skip
            t = layer.inputs[0]
            self.__dict__["_start"] = Input(batch_shape=t.shape, dtype=t.dtype)
        self._modules[str(len(self._modules))] = layer
        self._connect()

    def pop(self, key: int = -1, rebuild: bool = True) -> Any:
        """Take a layer out, the last one without an index."""
        layers = list(self._modules.values())
        layer = layers.pop(key)
        self._modules.clear()
        self._modules.update((str(i), m) for i, m in enumerate(layers))
        del self._ends[key % (len(layers) + 1) :]
        self._connect()
        return layer

    def _connect(self) -> None:
        """Make the graph where the input's shape is known."""
        if self._start is None or not self._modules:
            return
        ends = self._ends
        for m in self.layers[len(ends) :]:
            x = ends[-1] if ends else self._start
            ends.append(m(x) if isinstance(m, Layer) else _wrapped(m)(x))
        self.__dict__["_graph"] = Graph(self._start, ends[-1])
        self.__dict__["built"] = True

    def build(self, input_shape: Any = None) -> None:
        """Make the weights for inputs of a shape, with the batch: `model.build((None, 784))`."""
        if self._start is None and input_shape is not None:
            self.__dict__["_start"] = Input(batch_shape=tuple(input_shape))
            self._connect()

    def call(self, x: Any) -> Any:  # type: ignore[override]
        """The layers, one after the other."""
        for m in self._modules.values():
            x = m(x)
        return x

    def _build(self, args: tuple, kwargs: dict[str, Any], names: Any) -> None:
        x = args[0] if args else None
        self.__dict__["built"] = True
        if isinstance(x, Tensor) and not x.is_meta and all(isinstance(m, Layer) for m in self._modules.values()):  # fmt: skip
            self.__dict__["_start"] = Input(batch_shape=(None, *x.shape[1:]), dtype=x.dtype)
            self._connect()

    @property
    def layers(self) -> list[Any]:
        """The layers."""
        return list(self._modules.values())

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._modules.values())

    def __getitem__(self, index: Any) -> Any:
        found = self.layers[index]
        return nn.Sequential(*found) if isinstance(index, slice) else found

    def get_config(self) -> dict[str, Any]:
        """The layers."""
        from .saving import sequential_config

        return sequential_config(self)

    @classmethod
    def from_config(cls, config: Any, custom_objects: Any = None) -> Any:
        """A model like that which gave the config."""
        from .configured import knowing
        from .saving import deserialize

        with knowing(custom_objects):
            made = cls([deserialize(c) for c in config["layers"]], name=config.get("name"))
            shape = config.get("build_input_shape")
            if shape is not None and made._known is None:
                made.build(tuple(shape))
            return made


def _wrapped(module: Module) -> Any:
    from .layers import TorchModuleWrapper

    return TorchModuleWrapper(module)


def clone_model(model: Model) -> Any:
    """A model of the same architecture, with new weights."""
    from .saving import deserialize, serialize

    return deserialize(serialize(model))


__all__ = ["Input", "InputLayer", "Model", "Sequential", "clone_model"]
