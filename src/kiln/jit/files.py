"""Files of traced programs: their Graph as text, their state, and which input is which. No code is stored or run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..autograd.modes import no_grad
from ..backends import base
from ..compile import CompiledFunction
from ..compile.pytree import flatten, unflatten
from ..config import config
from ..errors import KilnError, KilnTypeError, describe
from ..fx.program import Program
from ..graph.node import Graph
from ..graph.text import parse_graph, print_graph
from ..nn.modules.module import Module
from ..nn.parameter import Parameter
from ..tensor import Tensor, wrap
from .modules import RecursiveScriptModule, ScriptFunction, ScriptModule, unscripted

FORMAT, SCRIPTED = "kiln.jit/1", "kiln.jit.script/1"


def save(m: Any, f: Any, _extra_files: dict[str, Any] | None = None) -> None:
    """Write a scripted or traced module or function to a path or a binary file, with its weights, for `load`.

    Of a traced one, what is written is the program of its example inputs' shapes and dtypes, in the mode (`eval()`, `train()`)
    that the module is in; of a scripted one, what it calls, for any shapes and both modes. Errors: KilnError for scripted ones
    that branch on values or sizes, and for traced ones that write their state or draw random numbers, which `eval()` mostly cures.
    """
    from ..io import save as write

    example = getattr(m, "_example", None)
    if example is None:
        write({**_scripted(m), "extra": dict(_extra_files or {})}, f, format="torch")
        return
    fn = m.__wrapped__ if isinstance(m, ScriptFunction) else _plain(m)
    tensors: dict[str, Tensor] = {}
    state: dict[str, Any] = {}
    parameters: list[str] = []
    if isinstance(m, Module):
        parameters, state = [n for n, _ in m.named_parameters()], dict(m.state_dict())
        tensors = dict(m.named_parameters()) | dict(m.named_buffers())
    content = _content(fn, example, tensors, state)
    content["parameters"] = parameters
    content["extra"] = dict(_extra_files or {})
    write(content, f, format="safetensors")


def _scripted(m: Any) -> dict[str, Any]:
    """A module or function as what it calls on arguments of any shapes."""
    from ..fx.program import encode
    from ..fx.proxy import TraceError
    from ..fx.values import symbolic_program

    if isinstance(m, Program):
        program = m
    elif isinstance(m, ScriptModule | ScriptFunction):
        try:
            program = symbolic_program(
                m.__wrapped__ if isinstance(m, ScriptFunction) else unscripted(m)
            )
        except (TraceError, NotImplementedError) as e:
            raise KilnError(
                "jit.save", "a scripted program is saved as what it calls, and this one is more than calls", str(e).partition("\n")[0],
                "trace it with an example input: kiln.jit.trace(model, x)",
            ) from None  # fmt: skip
    else:
        raise KilnError(
            "jit.save", "neither scripted nor traced", describe(m), "kiln.jit.script(model)"
        )
    return {"format": SCRIPTED, **encode(program, "jit.save")}


def _plain(m: Any) -> Callable:
    """What a traced module computes, as Python."""
    return lambda *args, **kwargs: super(type(m).__mro__[1], m).forward(*args, **kwargs)  # type: ignore[misc]


def _content(
    fn: Callable, example: tuple[tuple, dict], tensors: dict[str, Tensor], state: dict[str, Any]
) -> dict[str, Any]:
    program = CompiledFunction(fn, "reference", "saved")
    with no_grad():
        program(*example[0], **example[1])
    plan = program.entries[0].root.plan
    if plan is None:
        raise KilnError(
            "jit.save",
            "the program branches on values of tensors",
            None,
            "use kiln.where or kiln.cond",
        )
    if plan.written or any(k[0] not in ("new", "value") for k in plan.makers):
        raise KilnError(
            "jit.save", "the program writes its state, or gives what it was given", None,
            "call eval(), and return new tensors",
        )  # fmt: skip
    at = {id(t): n for n, t in tensors.items() if n in state}
    inputs: list[Any] = []
    for i in plan.inputs:
        if i.kind not in ("arg", "state"):
            raise KilnError(
                "jit.save",
                f"the program reads what is no argument or parameter ({i.kind})",
                None,
                "",
            )
        if i.kind == "arg":
            source: dict[str, Any] = {"argument": i.leaf}
        elif id(i.tensor) in at:
            source = {"state": at[id(i.tensor)]}
        else:
            source = {"constant": wrap(np.array(i.tensor._a))}  # type: ignore[union-attr]
        inputs.append({**source, "order": None if i.order is None else list(i.order)})
    leaves: list[Any] = []
    given = flatten(example, leaves)
    outputs = iter(range(len(plan.makers)))
    return {
        "format": FORMAT,
        "graph": print_graph(plan.graph, sources=False),
        "inputs": inputs,
        "makers": [list(k) for k in plan.makers],
        "result": _template(unflatten(plan.structure, lambda: next(outputs))),
        "arguments": repr(given),
        "shapes": [describe(x) for x in leaves],
        "state": state,
    }


def _template(x: Any) -> Any:
    """The containers of a result, with numbers for its leaves."""
    if isinstance(x, tuple) and type(x) is not tuple:
        return tuple(x)
    if isinstance(x, int) or type(x) in (tuple, list, dict):
        return x
    raise KilnTypeError(
        "jit.save", "a result is made of tensors, tuples, lists and dicts", describe(x), ""
    )


class _Loaded:
    """A saved program and where its inputs come from."""

    def __init__(self, content: dict[str, Any], name: str):
        self.graph: Graph = parse_graph(content["graph"])
        self.inputs, self.makers, self.result = (
            content["inputs"],
            content["makers"],
            content["result"],
        )
        self.arguments, self.shapes = content["arguments"], content["shapes"]
        self.program = base.get(config.backend).compile(self.graph, name)

    def run(self, state: dict[str, Tensor], args: tuple, kwargs: dict[str, Any]) -> Any:
        """The results for these arguments, which must be like the example's."""
        leaves: list[Any] = []
        structure = repr(flatten((args, kwargs), leaves))
        now = [describe(x) for x in leaves]
        if structure != self.arguments or now != self.shapes:
            raise KilnError(
                "jit.load", "the saved program is for other arguments", ", ".join(now),
                "it takes " + ", ".join(self.shapes) + ": save one for these shapes",
            )  # fmt: skip
        arrays = []
        for i in self.inputs:
            t = (
                leaves[i["argument"]]
                if "argument" in i
                else state[i["state"]]
                if "state" in i
                else i["constant"]
            )
            a = t._host("jit.load")
            a = a if i["order"] is None else a.transpose(i["order"])
            arrays.append(np.ascontiguousarray(a) if a.ndim else a)
        found = self.program.run(arrays)

        def leaf(j: int) -> Any:
            kind, value, *dims = self.makers[j]
            if kind == "value":
                return value
            return wrap(found[value].transpose(dims[0]) if dims else found[value])

        def build(x: Any) -> Any:
            if isinstance(x, dict):
                return {k: build(v) for k, v in x.items()}
            return leaf(x) if isinstance(x, int) else type(x)(build(v) for v in x)

        return build(self.result)


class _Script(RecursiveScriptModule, Program):
    """A scripted module that was loaded: its layers and parameters, and the calls that it consists of."""


class _Stored(RecursiveScriptModule):
    """A module that was loaded: its parameters, and the program that reads them."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The program's results."""
        return self._saved.run(
            dict(self.named_parameters()) | dict(self.named_buffers()), args, kwargs
        )

    @property
    def program_graph(self) -> Graph:
        """The program's Graph."""
        return self._saved.graph


def load(
    f: Any,
    map_location: Any = None,
    _extra_files: dict[str, Any] | None = None,
    _restore_shapes: bool = False,
) -> Any:
    """A module from a file of `save`: it computes what was scripted, or what was traced, from arguments of the example's shapes.

    Results of the latter require no gradient. Errors: KilnError for other files, TorchScript's among them.
    """
    from ..io import load as read

    content = read(f, map_location, weights_only=False)
    if isinstance(content, dict) and content.get("format") == SCRIPTED:
        from ..fx.program import decode

        for name in _extra_files or {}:
            _extra_files[name] = content["extra"].get(name, "")  # type: ignore[index]
        return _Script(*decode(content, "jit.load"))
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise KilnError(
            "jit.load", "not a file of kiln.jit.save", str(getattr(f, "name", f)),
            "kiln.load reads weights; TorchScript's programs are PyTorch's own",
        )  # fmt: skip
    out = _Stored()
    for name, t in content["state"].items():
        *path, last = name.split(".")
        owner: Module = out
        for part in path:
            if part not in owner._modules:
                owner.add_module(part, Module())
            owner = owner._modules[part]  # type: ignore[assignment]
        if name in content["parameters"]:
            owner.register_parameter(last, Parameter(t.detach(), t.requires_grad))
        else:
            owner.register_buffer(last, t)
    object.__setattr__(out, "_saved", _Loaded(content, "loaded"))
    out.eval()
    for name in _extra_files or {}:
        _extra_files[name] = content["extra"].get(name, "")  # type: ignore[index]
    return out


__all__ = ["load", "save"]
