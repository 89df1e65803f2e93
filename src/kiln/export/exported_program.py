"""Exported programs: what a module computes from inputs like its example's, with its weights and without its code."""

from __future__ import annotations

import inspect
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, NoReturn

from ..errors import (
    KilnAssertionError,
    KilnError,
    KilnNotImplementedError,
    KilnTypeError,
    KilnValueError,
    describe,
)
from ..fx.graph import Graph
from ..fx.node import Node, map_aggregate
from ..fx.program import Program, decode, encode
from ..fx.values import SpecializedError, example_program
from ..nn.modules.module import Module
from ..nn.parameter import Parameter
from ..tensor import Tensor
from .dynamic_shapes import INFINITY, Dim, ShapesCollection, sizes_of
from .graph_signature import (
    ConstantArgument,
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)

FORMAT = "kiln.export/1"


class ValueRanges(NamedTuple):
    """The least and the most that a size may be."""

    lower: int
    upper: int

    def __repr__(self) -> str:
        return f"VR[{self.lower}, {'int_oo' if self.upper == INFINITY else self.upper}]"


class _Input(NamedTuple):
    """A tensor among the arguments: its name, the example's sizes, and for dynamic dimensions (symbol, times, plus)."""

    name: str
    shape: list[int]
    dynamic: dict[int, tuple[str, int, int]]


class _Arguments:
    """The form of a program's arguments: what is a tensor, and which sizes and values others have."""

    def __init__(
        self, parameters: list[tuple[str, int]], template: dict[str, Any], inputs: list[_Input], ranges: dict[str, ValueRanges]
    ):  # fmt: skip
        self.parameters, self.template, self.inputs, self.ranges = (
            parameters,
            template,
            inputs,
            ranges,
        )
        kinds = list(inspect._ParameterKind)
        self.signature = inspect.Signature([
            inspect.Parameter(n, kinds[k], default=_default(template.get(n))) for n, k in parameters
        ])  # fmt: skip

    def bind(self, args: tuple, kwargs: dict[str, Any], check: bool) -> list[Tensor]:
        """The tensors among arguments; errors where those are not like the example's."""
        given = self.signature.bind(*args, **kwargs)
        given.apply_defaults()
        found: list[Tensor] = []
        for name, tree in self.template.items():
            _match(tree, given.arguments.get(name), name, found)
        if check:
            self._check(found)
        return found

    def _check(self, tensors: list[Tensor]) -> None:
        roots: dict[str, int] = {}
        for i, t in zip(self.inputs, tensors, strict=True):
            if t.ndim != len(i.shape):
                _guard(f"{i.name}.dim() == {len(i.shape)}", t)
            for d, size in enumerate(t.shape):
                if d not in i.dynamic:
                    if size != i.shape[d]:
                        _guard(f"{i.name}.size()[{d}] == {i.shape[d]}", t)
                    continue
                symbol, times, plus = i.dynamic[d]
                root, rest = divmod(size - plus, times)
                if rest or roots.setdefault(symbol, root) != root:
                    _guard(
                        f"{i.name}.size()[{d}] == {times}*{symbol} + {plus}, {symbol} == {roots.get(symbol)}",
                        t,
                    )
                least, most = self.ranges[symbol]
                if root < least:
                    _guard(f"{i.name}.size()[{d}] >= {least}", t)
                if root > most:
                    _guard(f"{i.name}.size()[{d}] <= {most}", t)


def _default(tree: Any) -> Any:
    return tree["value"] if isinstance(tree, dict) and "value" in tree else inspect.Parameter.empty


def _guard(what: str, t: Tensor) -> NoReturn:
    raise KilnAssertionError(
        "export",
        f"Guard failed: {what}",
        describe(t),
        "export with dynamic_shapes for sizes that differ",
    )


def _template(x: Any, path: str, leaves: list[tuple[str, Tensor]]) -> Any:
    """Arguments as data: the tensors go to `leaves`."""
    if isinstance(x, Tensor):
        leaves.append((path, x))
        return {"input": len(leaves) - 1}
    if type(x) in (list, tuple):
        return {type(x).__name__: [_template(v, f"{path}_{i}", leaves) for i, v in enumerate(x)]}
    if type(x) is dict:
        return {"dict": [[k, _template(v, f"{path}_{k}", leaves)] for k, v in x.items()]}
    if x is None or type(x) in (bool, int, float, str):
        return {"value": x}
    raise KilnTypeError(
        "export", f"Unsupported input type {type(x)}: tensors, numbers, strings, None, tuples, lists and dicts are known",
        f"{path}={describe(x)}", "take it apart before the module is called",
    )  # fmt: skip


def _build(tree: Any, inputs: list[Any]) -> Any:
    ((kind, x),) = tree.items()
    if kind == "input":
        return inputs[x]
    if kind == "dict":
        return {k: _build(v, inputs) for k, v in x}
    if kind in ("list", "tuple"):
        parts = [_build(v, inputs) for v in x]
        return tuple(parts) if kind == "tuple" else parts
    return x


def _match(tree: Any, x: Any, path: str, found: list[Tensor]) -> None:
    ((kind, part),) = tree.items()
    if kind == "input":
        if isinstance(x, Tensor):
            found.append(x)
            return
    elif kind == "dict":
        if isinstance(x, dict) and {k for k, _ in part} == x.keys():
            for k, v in part:
                _match(v, x[k], f"{path}[{k!r}]", found)
            return
    elif kind in ("list", "tuple"):
        if isinstance(x, list | tuple) and len(x) == len(part):
            for i, v in enumerate(part):
                _match(v, x[i], f"{path}[{i}]", found)
            return
    elif type(x) is type(part) and x == part:
        return
    expected = {"input": "a tensor", "value": repr(part)}.get(
        kind, f"a {kind} of {len(part) if kind != 'input' else 0}"
    )
    raise KilnValueError(
        "export",
        f"the program takes {expected} as {path}, as its example had",
        describe(x),
        "export it for these arguments",
    )


class _ExportedModule(Program):
    """A module that runs an exported program, after a look at its arguments. Source: ExportedProgram.module."""

    def __init__(self, program: Program, arguments: _Arguments, check: bool):
        super().__init__(program, program._graphs)
        object.__setattr__(self, "_arguments", arguments)
        object.__setattr__(self, "_check", check)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The program's results."""
        leaves = self._arguments.bind(args, kwargs, self._check)
        names = [i.name for i in self._arguments.inputs]
        return self.run(self.graph, dict(zip(names, leaves, strict=True)))

    def train(self, mode: bool = True) -> Any:
        """NotImplementedError: the mode is the one that the module was exported in."""
        raise KilnNotImplementedError(
            "export", f"Calling {'train' if mode else 'eval'}() is not supported yet.", None,
            "export the module in that mode",
        )  # fmt: skip

    def eval(self) -> Any:
        """NotImplementedError: the mode is the one that the module was exported in."""
        return self.train(False)


class ExportedProgram:
    """What `export` gives: a Graph of calls of Kiln's functions and layers, the weights, and the form of the arguments.

    `module()` runs it, for inference and for training. Source: torch.export.ExportedProgram.
    """

    def __init__(
        self,
        program: Program,
        arguments: _Arguments,
        mutated: list[str],
        example: tuple[tuple, dict] | None,
    ):
        self._program, self._arguments, self._mutated, self._example = (
            program,
            arguments,
            mutated,
            example,
        )

    @property
    def graph_module(self) -> Program:
        """The Graph as a module that takes the tensors among the arguments."""
        return self._program

    @property
    def graph(self) -> Graph:
        """The calls."""
        return self._program.graph

    @property
    def example_inputs(self) -> tuple[tuple, dict] | None:
        """The arguments that it was exported with."""
        return self._example

    @property
    def state_dict(self) -> dict[str, Any]:
        """Parameters and persistent buffers by name: the tensors themselves."""
        return dict(self._program.state_dict(keep_vars=True))

    @property
    def constants(self) -> dict[str, Tensor]:
        """Tensors that the code made, and buffers that are no state."""
        kept = self.state_dict
        return {n: b for n, b in self._program.named_buffers() if n not in kept}

    @property
    def range_constraints(self) -> dict[str, ValueRanges]:
        """The ranges of dynamic sizes by their names."""
        return dict(self._arguments.ranges)

    @property
    def dialect(self) -> str:
        """The vocabulary of the Graph."""
        return "TRAINING"

    @property
    def graph_signature(self) -> ExportGraphSignature:
        """What its inputs and outputs are."""
        kept, inputs = self.state_dict, []
        for name, _ in self._program.named_parameters():
            inputs.append(InputSpec(InputKind.PARAMETER, TensorArgument(_flat("p", name)), name))
        for name, _ in self._program.named_buffers():
            if name.startswith("_tensor_constant"):
                inputs.append(
                    InputSpec(InputKind.CONSTANT_TENSOR, TensorArgument(_flat("c", name)), name)
                )
            else:
                inputs.append(
                    InputSpec(
                        InputKind.BUFFER, TensorArgument(_flat("b", name)), name, name in kept
                    )
                )
        outputs = [
            OutputSpec(OutputKind.BUFFER_MUTATION, TensorArgument(_flat("b", name)), name)
            for name in self._mutated
        ]

        def result(x: Any) -> None:
            arg = TensorArgument(x.name) if isinstance(x, Node) else ConstantArgument("", x)
            outputs.append(OutputSpec(OutputKind.USER_OUTPUT, arg, None))

        def given(tree: Any, path: str) -> None:
            ((kind, x),) = tree.items()
            if kind in ("list", "tuple", "dict"):
                for key, v in x if kind == "dict" else enumerate(x):
                    given(v, f"{path}_{key}")
            else:
                arg = (
                    TensorArgument(self._arguments.inputs[x].name)
                    if kind == "input"
                    else ConstantArgument(path, x)
                )
                inputs.append(InputSpec(InputKind.USER_INPUT, arg, None))

        for name, tree in self._arguments.template.items():
            if (
                tree != {"value": self._arguments.signature.parameters[name].default}
                or name in self._given()
            ):
                given(tree, name)
        map_aggregate(self.graph.output_node().args[0], result)
        return ExportGraphSignature(inputs, outputs)

    def _given(self) -> set[str]:
        if self._example is None:
            return set()
        return set(self._arguments.signature.bind(*self._example[0], **self._example[1]).arguments)

    def module(self, check_guards: bool = True) -> Module:
        """The program as a module of the same parameters; AssertionError for sizes that it was not exported for."""
        return _ExportedModule(self._program, self._arguments, check_guards)

    def parameters(self) -> Iterator[Parameter]:
        """The parameters."""
        return self._program.parameters()

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """The parameters and their names."""
        return self._program.named_parameters()

    def buffers(self) -> Iterator[Tensor]:
        """The buffers."""
        return (b for _, b in self.named_buffers())

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """The buffers and their names."""
        return (x for x in self._program.named_buffers() if not x[0].startswith("_tensor_constant"))

    def run_decompositions(self, decomp_table: Mapping | None = None, decompose_custom_triton_ops: bool = False) -> ExportedProgram:  # fmt: skip
        """The program itself: its calls are of Kiln's own functions, which backends take apart as they need."""
        if decomp_table:
            raise KilnNotImplementedError(
                "export",
                "calls are not replaced by a table",
                describe(decomp_table),
                "change ep.graph, as in kiln.fx",
            )
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """An error: `module()` is what is called."""
        raise KilnError(
            "export", "Unable to call ExportedProgram directly. You should use `exported_program.module()` instead.",
            None, "ep.module()(x)",
        )  # fmt: skip

    def __str__(self) -> str:
        code = "".join(f"            {line}\n" for line in self._program.code.splitlines()[1:])
        heads = ", ".join(["self", *(f'{i.name}: "{_shape(i)}"' for i in self._arguments.inputs)])
        return (
            f"ExportedProgram:\n    class GraphModule(torch.nn.Module):\n        def forward({heads}):\n"
            + "".join(f"        {line[8:]}\n" for line in code.splitlines())
            + f"\nGraph signature: \n{self.graph_signature}\nRange constraints: {self.range_constraints}\n"
        )

    __repr__ = __str__


def _flat(kind: str, name: str) -> str:
    return f"{kind}_{name.replace('.', '_').lstrip('_')}"


def _shape(i: _Input) -> str:
    return (
        "["
        + ", ".join(i.dynamic[d][0] if d in i.dynamic else str(s) for d, s in enumerate(i.shape))
        + "]"
    )


# ---------------------------------------------------------------- exporting


def export(
    mod: Module, args: tuple, kwargs: Mapping[str, Any] | None = None, *, dynamic_shapes: Any = None,
    strict: bool = False, preserve_module_call_signature: tuple[str, ...] = (),
    prefer_deferred_runtime_asserts_over_guards: bool = False,
) -> ExportedProgram:  # fmt: skip
    """What a module computes from arguments like these, as a program that needs none of its code.

    All sizes are the example's, but for those that `dynamic_shapes` names: by argument, `{0: Dim("batch")}` for each tensor.
    Numbers and strings among the arguments are the example's too. Python runs once: branches on sizes are facts of the
    program, branches on values are refused. Layers of `kiln.nn` stay calls. Errors: ValueError for what is no module, KilnError for
    data-dependent Python and sizes that turn out not to be dynamic. Source: torch.export.export.
    """
    if not isinstance(mod, Module):
        raise KilnValueError(
            "export",
            f"Expected `mod` to be an instance of `torch.nn.Module`, got {type(mod)}.",
            describe(mod),
        )
    if not isinstance(args, tuple):
        raise KilnError("export", f"Expecting `args` to be a tuple of example positional inputs, got {type(args)}", describe(args), "(x,)")  # fmt: skip
    signature = inspect.signature(mod.forward)
    given = signature.bind(*args, **(kwargs or {}))
    names = list(given.arguments)
    spec = _by_name(dynamic_shapes, names, args, dict(kwargs or {}))
    given.apply_defaults()
    leaves: list[tuple[str, Tensor]] = []
    template = {n: _template(x, n, leaves) for n, x in given.arguments.items()}
    specs: list[Any] = [None] * len(leaves)
    for n, s in spec.items():
        _spread(template[n], s, f"['{n}']", specs)
    dynamic = [sizes_of(f"['{n}']", t, s) for (n, t), s in zip(leaves, specs, strict=True)]
    while True:
        try:
            return _export(mod, signature, template, leaves, dynamic, (args, dict(kwargs or {})))
        except SpecializedError:
            firm = [
                {d: x for d, x in sizes.items() if getattr(x, "kind", "") != "AUTO"}
                for sizes in dynamic
            ]
            if firm == dynamic:
                raise
            dynamic = firm


def _export(
    mod: Module, signature: inspect.Signature, template: dict[str, Any], leaves: list[tuple[str, Tensor]],
    dynamic: list[dict[int, Any]], example: tuple[tuple, dict],
) -> ExportedProgram:  # fmt: skip
    inputs, ranges, roots = [], {}, {}
    for (name, t), sizes in zip(leaves, dynamic, strict=True):
        named: dict[int, tuple[str, int, int]] = {}
        for d, dim in sizes.items():
            root = dim.root if isinstance(dim, Dim) else None
            symbol = f"s{len(ranges)}" if root is None else root.__name__
            times, plus = (1, 0) if root is None else (dim.times, dim.plus)
            n, rest = divmod(t.shape[d] - plus, times)
            if rest or roots.setdefault(symbol, n) != n:
                raise KilnError(
                    "export", f"Constraints violated ({dim.__name__})! The example's sizes don't agree", describe(t),
                    f"{symbol} is {roots.get(symbol)} elsewhere",
                )  # fmt: skip
            low, high = (dim.min, dim.max) if root is None else (root.min, root.max)
            ranges[symbol] = ValueRanges(low or 0, INFINITY if high is None else high)
            named[d] = symbol, times, plus
        inputs.append(_Input(name, list(t.shape), named))
    others = {s: n + 1 if n + 1 <= ranges[s].upper else n - 1 for s, n in roots.items()}
    values: list[tuple] = []
    for i, (_, t) in zip(inputs, leaves, strict=True):
        first = t.detach().clone()
        second = first
        for d, (symbol, times, plus) in i.dynamic.items():
            second = _resized(second, d, times * others[symbol] + plus)
        values.append((first, second.clone()) if ranges else (first,))

    def call(root: Module, proxies: list[Any]) -> Any:
        bound = inspect.BoundArguments(
            signature, {n: _build(tree, proxies) for n, tree in template.items()}
        )  # type: ignore[arg-type]
        return type(root).forward(root, *bound.args, **bound.kwargs)

    program, mutated = example_program(mod, [i.name for i in inputs], values, call)
    kinds = [(n, int(p.kind)) for n, p in signature.parameters.items()]
    return ExportedProgram(program, _Arguments(kinds, template, inputs, ranges), mutated, example)


def _resized(t: Tensor, dim: int, size: int) -> Tensor:
    from ..ops.creation import arange

    if not t.shape[dim]:
        return t.new_zeros([size if d == dim else n for d, n in enumerate(t.shape)])
    return t.index_select(dim, arange(size) % t.shape[dim])


def _by_name(spec: Any, names: list[str], args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The dynamic sizes by argument."""
    if spec is None:
        return {}
    if isinstance(spec, ShapesCollection):
        spec = spec.dynamic_shapes(None, args, kwargs)
    if isinstance(spec, dict):
        if sorted(spec) != sorted(names):
            raise KilnError(
                "export", "When `dynamic_shapes` is specified as a dict, its top-level keys must be the arg names "
                f"{names} of `inputs`, but here they are {list(spec)}.", None, "name all arguments that are given",
            )  # fmt: skip
        return spec
    if not isinstance(spec, list | tuple) or len(spec) != len(names):
        raise KilnError(
            "export", f"Detected mismatch between the structure of `inputs` and `dynamic_shapes`: {len(names)} arguments",
            describe(spec), "a dict by name, or an entry for each argument",
        )  # fmt: skip
    return dict(zip(names, spec, strict=True))


def _spread(tree: Any, spec: Any, where: str, out: list[Any]) -> None:
    """Dynamic sizes along the tree of an argument."""
    ((kind, x),) = tree.items()
    if kind == "input":
        out[x] = spec
    elif spec is None or kind == "value":
        return
    elif kind == "dict" and isinstance(spec, dict) and spec.keys() == {k for k, _ in x}:
        for k, v in x:
            _spread(v, spec[k], f"{where}[{k!r}]", out)
    elif kind != "dict" and isinstance(spec, list | tuple) and len(spec) == len(x):
        for i, v in enumerate(x):
            _spread(v, spec[i], f"{where}[{i}]", out)
    else:
        raise KilnError(
            "export", "Detected mismatch between the structure of `inputs` and `dynamic_shapes`", f"{where}: {spec!r} for a {kind}",
            "the same containers",
        )  # fmt: skip


# ---------------------------------------------------------------- files


def save(ep: ExportedProgram, f: Any, *, extra_files: dict[str, Any] | None = None, opset_version: Any = None, **options: Any) -> None:  # fmt: skip
    """Write a program to a path or a binary file, with its weights and without code, for `load`."""
    if not isinstance(ep, ExportedProgram):
        raise KilnTypeError(
            "export.save", f"The 'ep' parameter must be an instance of 'ExportedProgram', got '{type(ep).__name__}' instead.",
            describe(ep), "export(module, args)",
        )  # fmt: skip
    a = ep._arguments
    content = {
        "format": FORMAT, "program": encode(ep._program, "export.save"), "parameters": [list(p) for p in a.parameters],
        "template": a.template, "inputs": [[i.name, i.shape, {d: list(s) for d, s in i.dynamic.items()}] for i in a.inputs],
        "ranges": {s: list(r) for s, r in a.ranges.items()}, "mutated": ep._mutated, "example": ep._example,
        "extra": dict(extra_files or {}),
    }  # fmt: skip
    from ..io import save as write

    write(content, f, format="torch")


def load(
    f: Any, *, extra_files: dict[str, Any] | None = None, expected_opset_version: Any = None
) -> ExportedProgram:
    """A program from a file of `save`. Nothing of the file is run as Python. Errors: KilnError for other files."""
    from ..io import load as read

    _refuse_pytorchs(f)
    content = read(f, weights_only=False)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise KilnError(
            "export.load", "not a file of kiln.export.save", str(getattr(f, "name", f)),
            "kiln.load reads weights; PyTorch's own .pt2 programs are not read",
        )  # fmt: skip
    root, graphs = decode(content["program"], "export.load")
    arguments = _Arguments(
        [(n, k) for n, k in content["parameters"]], content["template"],
        [_Input(n, shape, {d: tuple(s) for d, s in dims.items()}) for n, shape, dims in content["inputs"]],
        {s: ValueRanges(*r) for s, r in content["ranges"].items()},
    )  # fmt: skip
    for name in extra_files or {}:
        extra_files[name] = content["extra"].get(name, "")  # type: ignore[index]
    return ExportedProgram(Program(root, graphs), arguments, content["mutated"], content["example"])


def _refuse_pytorchs(f: Any) -> None:
    """An error that says so where a file is PyTorch's own, a zip of ATen ops."""
    start = f.tell() if hasattr(f, "tell") else None
    if not zipfile.is_zipfile(f):
        names: list[str] = []
    else:
        with zipfile.ZipFile(f) as z:
            names = z.namelist()
    if start is not None:
        f.seek(start)
    ends = ("/archive_format", "serialized_exported_program.json")
    if any(n.endswith(ends) for n in names):
        raise KilnError(
            "export.load", "a program of PyTorch's torch.export, whose ATen ops are not read", str(getattr(f, "name", f)),
            "export the module under Kiln; torch.save(module.state_dict(), …) carries its weights over",
        )  # fmt: skip


__all__ = ["ExportedProgram", "export", "load", "save"]
