"""Architectures as configs and weights as files, both as Keras 3 writes and reads them: `.keras` and `.weights.h5`.

A `.keras` file is a zip of `config.json` and `model.weights.h5`, where the weights of a layer are at the path of attributes that leads to
it. Neither holds code: a class or function of one's own is found among `custom_objects` and what was registered. HDF5 needs h5py.

https://keras.io/api/models/model_saving_apis/
"""

from __future__ import annotations

import io
import json
import os
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..autograd.modes import no_grad
from ..dtypes import dtype as Dtype
from ..errors import KilnKeyError, KilnTypeError, KilnValueError, KilnWarning, describe
from ..extras import need
from ..io import load, save
from ..io.files import write_bytes
from ..nn.modules.module import Module
from ..ops.creation import as_tensor
from ..tensor import Tensor
from . import (
    activations,
    constraints,
    initializers,
    layers,
    losses,
    metrics,
    optimizers,
    regularizers,
)
from .configured import (
    CUSTOM,
    CustomObjectScope,
    custom_object_scope,
    get_custom_objects,
    get_registered_name,
    knowing,
    register_keras_serializable,
    snake,
)
from .dtypes import name_of
from .layer import Layer, _own, _Tracked
from .model import InputLayer, Model, Sequential
from .symbolic import Function, KerasTensor

ENDINGS = ".weights.h5", ".h5", ".hdf5"


# ---- objects as plain data


def serialize(x: Any) -> Any:
    """A value of a config as plain data, as Keras writes it."""
    if x is None or isinstance(x, bool | int | float | str):
        return x
    if isinstance(x, np.generic):
        return x.item()
    if isinstance(x, list | tuple):
        return [serialize(v) for v in x]
    if isinstance(x, Mapping):
        return {k: serialize(v) for k, v in x.items()}
    if isinstance(x, Dtype):
        return name_of(x)
    if isinstance(x, Tensor | np.ndarray):
        a = x.detach().numpy() if isinstance(x, Tensor) else x
        return {"class_name": "__numpy__", "config": {"value": a.tolist(), "dtype": str(a.dtype)}}
    if isinstance(x, Function):
        return {"module": "keras.src.ops.numpy", "class_name": _camel(x.fn.__name__), "config": {"name": x.name}, "registered_name": _camel(x.fn.__name__)}  # fmt: skip
    if hasattr(x, "get_config"):
        return _object(x)
    if callable(x):
        return _function(x)
    raise KilnTypeError("save", "this value of a config can't be written", describe(x), "plain values, layers, or objects with get_config")  # fmt: skip


def _camel(name: str) -> str:
    return "".join(p.capitalize() for p in name.split("_"))


def _object(x: Any) -> dict[str, Any]:
    cls = type(x)
    module = cls.__module__
    name = cls.__name__
    registered = getattr(cls, "_registered", None)
    if registered is None and module.startswith("kiln.keras"):
        where = next((w for w, held in _PLACES.items() if getattr(held, name, None) is cls), None)
        module = "keras" if where is None else f"keras.{where}"
        if cls is Model:
            module, name = "keras.src.models.functional", "Functional"
    else:
        registered = registered or name
    out = {"module": module, "class_name": name, "config": serialize(x.get_config()), "registered_name": registered}  # fmt: skip
    if isinstance(x, Layer) and not isinstance(x, InputLayer):
        build = x.get_build_config()
        if build is not None and x.__dict__.get("_build_shapes") is not None:
            out["build_config"] = serialize(build)
    return out


def _function(x: Any) -> Any:
    name = getattr(x, "__name__", None)
    if activations.BY_NAME.get(str(name)) is x:
        return name
    if name is None or name == "<lambda>":
        raise KilnTypeError("save", "a lambda can't be written to a file", describe(x), "a named function, and custom_objects where it is read")  # fmt: skip
    registered = getattr(x, "_registered", name)
    return {"module": x.__module__, "class_name": "function", "config": name, "registered_name": registered}  # fmt: skip


_PLACES = {
    "layers": layers, "initializers": initializers, "regularizers": regularizers, "constraints": constraints, "optimizers": optimizers,
    "optimizers.schedules": optimizers.schedules, "losses": losses, "metrics": metrics,
}  # fmt: skip


def deserialize(config: Any, custom_objects: Mapping[str, Any] | None = None) -> Any:
    """What a config stands for; plain data as it is."""
    with knowing(custom_objects):
        return _decoded(config)


def _decoded(x: Any) -> Any:
    if isinstance(x, list | tuple):
        return [_decoded(v) for v in x]
    if not isinstance(x, Mapping):
        return x
    kind = x.get("class_name")
    if kind is None:
        return {k: _decoded(v) for k, v in x.items()}
    config = x.get("config") or {}
    if kind == "__numpy__":
        return np.array(config["value"], config["dtype"])
    if kind == "__tuple__":
        return tuple(_decoded(x["items"]))
    if kind in ("DTypePolicy", "__keras_tensor__"):
        return config["name"] if kind == "DTypePolicy" else x
    if kind == "function":
        return _custom(str(x.get("registered_name") or config), str(config))
    cls = _class(x)
    inner = config if "layers" in config else {k: _decoded(v) for k, v in config.items()}
    made = cls.from_config(inner)
    build = (x.get("build_config") or {}).get("input_shape")
    if isinstance(made, Layer) and not isinstance(made, Model) and not made.built and build is not None and not hasattr(made, "state_size"):  # fmt: skip
        if type(made).build is Layer.build:
            made.compute_output_shape(_tuples(build))
        else:
            made.build(_tuples(build))
            made.__dict__["built"], made.__dict__["_build_shapes"] = True, _tuples(build)
    return made


def _tuples(shape: Any) -> Any:
    if isinstance(shape, list) and shape and isinstance(shape[0], list):
        return [tuple(s) for s in shape]
    return tuple(shape) if isinstance(shape, list) else shape


def _custom(*names: str) -> Any:
    for name in names:
        for key, found in CUSTOM.items():
            if name in (key, key.rpartition(">")[2]):
                return found
        if name in activations.BY_NAME:
            return activations.BY_NAME[name]
    raise KilnKeyError("load_model", "nobody knows what this is", repr(names[-1]), "load_model(path, custom_objects={name: …}), or register_keras_serializable")  # fmt: skip


def _class(x: Mapping[str, Any]) -> Any:
    name, module, registered = x["class_name"], str(x.get("module") or ""), x.get("registered_name")
    if module.startswith("keras") or not module:
        if name in ("Functional", "Model"):
            return Model
        if name == "Sequential":
            return Sequential
        place = _PLACES.get(module.removeprefix("keras."))
        for held in (place, layers, *_PLACES.values()):
            found = getattr(held, name, None)
            if isinstance(found, type):
                return found
    return _custom(registered or name, name)


# ---- graphs


def graph_config(model: Model) -> dict[str, Any]:
    """A functional model's config: its layers with the calls that connect them."""
    graph: Any = model._known
    own = {id(n) for n in graph.nodes} | {id(t.node) for t in graph.starts}
    places: dict[int, int] = {}
    for operation in graph.operations:
        first = 1 if _is_graph(operation) else 0
        for i, node in enumerate(n for n in operation.__dict__["_nodes"] if id(n) in own):
            places[id(node)] = first + i

    def at(t: KerasTensor) -> list[Any]:
        assert t.node is not None
        return [t.node.operation.name, places[id(t.node)], t.index]

    def told(x: Any) -> Any:
        if isinstance(x, KerasTensor):
            return {"class_name": "__keras_tensor__", "config": {"shape": list(x.shape), "dtype": x.dtype, "keras_history": at(x)}}  # fmt: skip
        if isinstance(x, list | tuple):
            return [told(v) for v in x]
        if isinstance(x, Mapping):
            return {k: told(v) for k, v in x.items()}
        return serialize(x)

    held = []
    for operation in graph.operations:
        calls = [n for n in operation.__dict__["_nodes"] if id(n) in own and n.inputs]
        nodes = [{"args": told(n.args), "kwargs": told(n.kwargs)} for n in calls]
        held.append({**serialize(operation), "name": operation.name, "inbound_nodes": nodes})

    def ends(x: Any) -> Any:
        if isinstance(x, KerasTensor):
            return at(x)
        return {k: ends(v) for k, v in x.items()} if isinstance(x, Mapping) else [ends(v) for v in x]  # fmt: skip

    return {
        "name": model.name, "trainable": model.trainable, "layers": held, "input_layers": ends(graph.inputs),
        "output_layers": ends(graph.outputs),
    }  # fmt: skip


def _is_graph(operation: Any) -> bool:
    return isinstance(operation, Model) and operation._known is not None and not isinstance(operation, Sequential)  # fmt: skip


def graph_from(config: Mapping[str, Any]) -> Model:
    """The functional model of a config."""
    made: dict[str, Any] = {}
    waiting: list[tuple[Any, Mapping[str, Any]]] = []
    for entry in config["layers"]:
        made[entry["name"]] = operation = _operation(entry)
        waiting += [(operation, node) for node in entry["inbound_nodes"]]

    def tensor(place: Any) -> KerasTensor | None:
        operation = made[place[0]]
        nodes = operation.__dict__.get("_nodes", [])
        i = place[1] - (1 if _is_graph(operation) and len(place) > 1 and place[1] > 0 else 0)
        return nodes[i].outputs[place[2]] if i < len(nodes) else None

    missing = False

    def read(x: Any) -> Any:
        nonlocal missing
        if isinstance(x, Mapping) and x.get("class_name") == "__keras_tensor__":
            found = tensor(x["config"]["keras_history"])
            missing = missing or found is None
            return found
        if isinstance(x, list | tuple):
            return [read(v) for v in x]
        if isinstance(x, Mapping) and "class_name" not in x:
            return {k: read(v) for k, v in x.items()}
        return _decoded(x)

    while waiting:
        late = []
        blocked: set[int] = set()
        for operation, node in waiting:
            missing = False
            args, kwargs = read(node["args"]), read(node["kwargs"])
            if missing or id(operation) in blocked:  # calls of one layer keep their order
                blocked.add(id(operation))
                late.append((operation, node))
                continue
            kwargs = {k: v for k, v in kwargs.items() if v is not None and not (k == "mask" and isinstance(operation, Layer))}  # fmt: skip
            if isinstance(operation, Layer):
                operation(*args, **kwargs)
            else:
                from .symbolic import call

                call(operation, tuple(args), kwargs, operation.fn)
        if len(late) == len(waiting):
            raise KilnValueError("load_model", "the calls of the layers don't lead to each other", describe([w[1] for w in late][:2]), "a config as get_config gives it")  # fmt: skip
        waiting = late

    def ends(x: Any) -> Any:
        if isinstance(x, Mapping):
            return {k: ends(v) for k, v in x.items()}
        if len(x) == 3 and isinstance(x[0], str):
            return tensor(x)
        found = [ends(v) for v in x]
        return found

    model = Model(
        ends(config["input_layers"]), ends(config["output_layers"]), name=config.get("name")
    )
    if config.get("trainable") is False:
        model.trainable = False
    return model


def _operation(entry: Mapping[str, Any]) -> Any:
    if str(entry.get("module", "")).startswith("keras.src.ops"):
        from . import ops

        fn = getattr(ops, snake(entry["class_name"]), None)
        if fn is None:
            raise KilnKeyError("load_model", "there is no such function", entry["class_name"], "one of kiln.keras.ops")  # fmt: skip
        return Function(getattr(fn, "__wrapped__", fn), entry["name"])
    return _decoded({k: v for k, v in entry.items() if k not in ("inbound_nodes", "build_config")})


def sequential_config(model: Sequential) -> dict[str, Any]:
    """A Sequential's config: its layers, that of the input first where its shape is known."""
    start = model.__dict__["_start"]
    held = [serialize(start.node.operation)] if start is not None else []
    wrapped = [m for m in model.layers if not isinstance(m, Layer)]
    if wrapped:
        raise KilnTypeError(
            "save", "modules of kiln.nn have no config", describe(wrapped[0]), "model.save_weights('model.kiln'), or layers of kiln.keras.layers"
        )  # fmt: skip
    out = {"name": model.name, "trainable": model.trainable, "layers": held + [serialize(m) for m in model.layers]}  # fmt: skip
    return {**out, "build_input_shape": list(start.shape)} if start is not None else out


# ---- weights


def places(model: Module) -> Iterator[tuple[str, Module]]:
    """(path, layer) of a model and all in it, as Keras names them in files."""
    seen: set[int] = set()

    def walk(x: Module, path: str) -> Iterator[tuple[str, Module]]:
        if id(x) in seen:
            return
        seen.add(id(x))
        yield path, x
        for name, child in _children(x):
            inner = f"{path}/{name}" if path else name
            if isinstance(child, Module):
                yield from walk(child, inner)
                continue
            used: Counter[str] = Counter()
            for item in child:
                kind = snake(type(item).__name__)
                kind = kind if type(item) is not Model else "functional"
                n = used[kind]
                used[kind] += 1
                yield from walk(item, f"{inner}/{kind}" + (f"_{n}" if n else ""))

    return walk(model, "")


def _children(x: Module) -> list[tuple[str, Any]]:
    if isinstance(x, Sequential) or _is_graph(x):
        return [("layers", x.layers)]
    found: dict[str, Any] = {k: [i for i in v if isinstance(i, Module)] for k, v in vars(x).items() if isinstance(v, _Tracked)}  # fmt: skip
    listed = {id(m) for v in found.values() for m in v}
    found |= {k: m for k, m in x._modules.items() if m is not None and id(m) not in listed}
    if isinstance(x, Model):
        found["layers"] = x.layers
    return sorted(found.items(), key=lambda e: f"~{e[0]}" if e[0].startswith("_") else e[0])


def _write_h5(model: Model, target: Any) -> None:
    h5py = need("h5py", "hdf5", "save")
    with h5py.File(target, "w") as f:
        for path, layer in places(model):
            group = f.create_group(f"{path}/vars" if path else "vars")
            group.attrs["name"] = str(getattr(layer, "name", ""))
            for i, w in enumerate(_own(layer)):
                group[str(i)] = w.detach().numpy()


def _read_h5(model: Model, source: Any, skip_mismatch: bool) -> None:
    h5py = need("h5py", "hdf5", "load_weights")
    with h5py.File(source, "r") as f:
        if "layer_names" in f.attrs or "model_weights" in f:
            raise KilnValueError("load_weights", "the file is one of Keras 2's", str(getattr(source, "name", source)), "save it with Keras 3: model.save_weights('….weights.h5')")  # fmt: skip
        found: list[tuple[Any, np.ndarray]] = []
        for path, layer in places(model):
            own = _own(layer)
            key = f"{path}/vars" if path else "vars"
            group = f.get(key, {})
            shapes = [tuple(group[str(i)].shape) for i in range(len(own)) if str(i) in group]
            if shapes != [tuple(w.shape) for w in own]:
                if not skip_mismatch:
                    raise KilnValueError(
                        "load_weights", f"the weights of {getattr(layer, 'name', path)!r} are not those of this model",
                        f"shapes {shapes} at {key!r}", f"expected {[tuple(w.shape) for w in own]}; skip_mismatch=True leaves such layers as they are",
                    )  # fmt: skip
                warnings.warn(f"the weights of {getattr(layer, 'name', path)!r} differ in shape and stay as they are", KilnWarning, stacklevel=4)  # fmt: skip
                continue
            found += [(w, group[str(i)][()]) for i, w in enumerate(own)]
    with no_grad():
        for w, a in found:
            w.copy_(as_tensor(a))


def _built(model: Model, what: str) -> None:
    waiting = [m for m in model.modules() if getattr(m, "built", True) is False]
    if waiting and (len(waiting) > 1 or waiting[0] is not model):
        raise KilnValueError(what, "there are no weights yet", f"{waiting[0].name!r} is not built", "call the model on data, or model.build(input_shape)")  # type: ignore[union-attr] # fmt: skip


def _new(what: str, path: Any, overwrite: bool) -> None:
    if not overwrite and os.path.exists(path):
        raise KilnValueError(what, "the file is there already", str(path), "overwrite=True")


def save_weights(model: Model, filepath: Any, overwrite: bool = True) -> None:
    """Write the weights: HDF5 where the file's name says so, else by `kiln.save`."""
    _new("save_weights", filepath, overwrite)
    if str(filepath).endswith(ENDINGS):
        _built(model, "save_weights")
        buffer = io.BytesIO()
        _write_h5(model, buffer)
        write_bytes("save_weights", filepath, buffer.getvalue())
    else:
        save(model.state_dict(), filepath)


def load_weights(model: Model, filepath: Any, skip_mismatch: bool = False) -> None:
    """Read them, or those of a `.keras` file."""
    name = str(filepath)
    if name.endswith((*ENDINGS, ".keras")):
        _built(model, "load_weights")
        if name.endswith(".keras"):
            with zipfile.ZipFile(filepath) as z:
                _read_h5(model, io.BytesIO(z.read("model.weights.h5")), skip_mismatch)
        else:
            _read_h5(model, Path(filepath), skip_mismatch)
        return
    found = load(filepath)
    model.load_state_dict(
        found["model"] if isinstance(found, dict) and "trainer" in found else found
    )


# ---- whole models


def save_model(model: Model, filepath: Any, overwrite: bool = True, **other: Any) -> None:
    """Write architecture, weights and what `compile` was told as a `.keras` file; the optimizer's state is not in it."""
    if not str(filepath).endswith(".keras"):
        raise KilnValueError("save", "the file's name says no format", str(filepath), "model.save('model.keras'); weights alone: save_weights; to serve it: export")  # fmt: skip
    _new("save", filepath, overwrite)
    need("h5py", "hdf5", "save")
    _built(model, "save")
    config = serialize(model)
    told = model.__dict__.get("_compiled")
    if told is not None:
        try:
            config["compile_config"] = serialize(told)
        except KilnTypeError as e:
            warnings.warn(f"what compile was told is not in the file: {e}", KilnWarning, stacklevel=3)  # fmt: skip
    weights = io.BytesIO()
    _write_h5(model, weights)
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as z:
        z.writestr("metadata.json", json.dumps({"keras_version": "3.15.1", "date_saved": time.strftime("%Y-%m-%d@%H:%M:%S")}))  # fmt: skip
        z.writestr("config.json", json.dumps(config))
        z.writestr("model.weights.h5", weights.getvalue())
    write_bytes("save", filepath, whole.getvalue())


def load_model(filepath: Any, custom_objects: Mapping[str, Any] | None = None, compile: bool = True, safe_mode: bool = True) -> Any:  # fmt: skip
    """The model in a `.keras` file, Kiln's or Keras's; compiled as it was, but for the optimizer's state, unless `compile=False`."""
    if not zipfile.is_zipfile(filepath):
        raise KilnValueError("load_model", "this is no .keras file", str(filepath), "a file of model.save('model.keras')")  # fmt: skip
    with zipfile.ZipFile(filepath) as z, knowing(custom_objects):
        config = json.loads(z.read("config.json"))
        model = _decoded({k: v for k, v in config.items() if k != "build_config"})
        build = (config.get("build_config") or {}).get("input_shape")
        if isinstance(model, Model) and model._known is None and build is not None:
            model.build(_tuples(build))
        _read_h5(model, io.BytesIO(z.read("model.weights.h5")), False)
        told = config.get("compile_config")
        if compile and told and told.get("optimizer") is not None:
            names = ("optimizer", "loss", "loss_weights", "metrics", "weighted_metrics", "run_eagerly")  # fmt: skip
            given = {k: _decoded(v) for k, v in told.items() if k in names}
            model.compile(**given)
    return model


def model_from_json(text: str, custom_objects: Mapping[str, Any] | None = None) -> Any:
    """The model that `to_json` told of, with new weights."""
    return deserialize(json.loads(text), custom_objects)


serialize_keras_object, deserialize_keras_object = serialize, deserialize

__all__ = [
    "CustomObjectScope", "custom_object_scope", "deserialize_keras_object", "get_custom_objects", "get_registered_name", "load_model",
    "load_weights", "register_keras_serializable", "save_model", "save_weights", "serialize_keras_object",
]  # fmt: skip
