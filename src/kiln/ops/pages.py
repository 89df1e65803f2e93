"""Pages of the API reference, derived from the registry: what `kiln docs` writes.

A page has the function's signature and docstring, an example that was run to write it, the dtypes
that the example runs in, its gradient, its other forms, and the errors of its samples with their text.
"""

from __future__ import annotations

import contextlib
import doctest
import inspect
import io
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import kiln

from .. import dtypes as dt
from ..tensor import Tensor
from . import import_all
from .registry import COMPOSITIONS, FUNCTIONS, METHODS, Op, Sample

SMALL = 24  # as many elements are written out
CALLS = {
    "arange": "1, 8, 2", "argwhere": "{m}", "as_tensor": "[1.0, 2.0]", "broadcast_tensors": "{v}, {m}",
    "chain_matmul": "{m}, {m}, {m}", "cholesky": "{s}", "contiguous": "{m}", "eig": "{s}", "empty": "0, 3",
    "empty_like": "kiln.ones(0, 2)", "eye": "2, 3", "full": "(2, 2), 7.0", "full_like": "{m}, 7.0",
    "imag": "kiln.tensor([1 + 2j, 3j])", "real": "kiln.tensor([1 + 2j, 3j])", "linalg.matrix_exp": "{m}",
    "linalg.cross": "kiln.tensor([1.0, 0.0, 0.0]), kiln.tensor([0.0, 1.0, 0.0])", "linalg.diagonal": "{m}",
    "linspace": "0, 1, 5", "logspace": "0, 2, 3", "matrix_rank": "{m}", "lu": "{s}", "qr": "{s}", "svd": "{s}",
    "nn.functional.log_softmax": "{m}, dim=1", "nn.functional.relu": "{m}", "nn.functional.softmax": "{m}, dim=1",
    "nn.functional.softmin": "{m}, dim=1", "nonzero": "{m}", "normal": "0.0, 1.0, (3,)", "ones": "2, 3",
    "ones_like": "{m}", "rand": "3", "rand_like": "{m}", "randint": "0, 10, (5,)", "randint_like": "{m}, 10",
    "randn": "3", "randn_like": "{m}", "randperm": "5", "scalar_tensor": "3", "tensor": "[[1, 2], [3, 4]]",
    "tril_indices": "3, 3", "triu_indices": "3, 3", "view_as_complex": "{m}", "where": "{m} > 0, {m}, 0.0",
    "view_as_real": "kiln.tensor([1 + 2j, 3j])", "zeros": "2, 3", "zeros_like": "{m}",
    "nn.functional.gumbel_softmax": "{m}", "nn.functional.max_pool1d_with_indices": "{c}, 2",
    "nn.functional.adaptive_max_pool1d_with_indices": "{c}, 2",
}  # fmt: skip
"""Example calls of functions without samples: creation, and what is a name for another function."""
WORDS = {
    "v": "kiln.tensor([1.0, 2.0])", "m": "kiln.tensor([[1.0, -2.0], [0.0, 3.0]])",
    "s": "kiln.tensor([[2.0, 1.0], [1.0, 3.0]])", "c": "kiln.tensor([[1.0, 3.0, 2.0, 5.0]])",
}  # fmt: skip
DTYPES = (dt.float32, dt.float64, dt.bfloat16, dt.float16, dt.complex64, dt.complex128, dt.int64, dt.int32,
          dt.int16, dt.int8, dt.uint8, dt.bool_)  # fmt: skip
PROMPT = ">>> "


class Page:
    """The reference page of a public function."""

    def __init__(self, name: str, fn: Any):
        self.name, self.fn = name, fn
        self.op: Op | None = getattr(fn, "op", None)
        self.samples = _samples(name, fn)
        self.example, self.sample = self._example()

    @property
    def summary(self) -> str:
        """The first paragraph of the docstring."""
        return " ".join(inspect.cleandoc(self.fn.__doc__ or "").split("\n\n")[0].split())

    def text(self, agreement: str = "") -> str:
        """The page in Markdown; `agreement` is what a comparison with PyTorch has found."""
        parts = [
            f"# kiln.{self.name}\n",
            f"```python\nkiln.{self.name}{_signature(self.fn)}\n```\n",
            inspect.cleandoc(self.fn.__doc__ or "") + "\n",
        ]
        if self.example:
            parts.append(f"## Example\n\n```python\n{self.example}```\n")
        rows = [(k, v) for k, v in self._facts(agreement) if v]
        parts.append(
            "## Facts\n\n| | |\n|---|---|\n" + "".join(f"| {k} | {v} |\n" for k, v in rows)
        )
        errors = list(self._errors())
        if errors:
            parts.append("## Errors\n\n" + "\n".join(f"```python\n{e}```\n" for e in errors))
        return "\n".join(parts)

    def _example(self) -> tuple[str, Sample | None]:
        if self.name in CALLS:
            draws = any(word in self.name for word in ("rand", "normal", "gumbel"))
            call = f"kiln.{self.name}({CALLS[self.name].format(**WORDS)})"
            return _run([*["kiln.manual_seed(0)"] * draws, call]), None
        good = [s for s in self.samples if s.error is None]
        for s in sorted(good, key=_elements):
            code = _code(self, s)
            shown = code and _run(code)
            if shown:
                return shown, s
        return "", None

    def _facts(self, agreement: str) -> Iterator[tuple[str, str]]:
        yield "dtypes of the example", ", ".join(d.name for d in self._dtypes())
        yield "gradient", self._gradient()
        yield "other forms", ", ".join(f"`{f}`" for f in _forms(self.name, self.fn, self.op))
        yield (
            "result",
            "shares memory with the input where it can" if self.op and self.op.view else "",
        )
        yield "beside PyTorch", agreement

    def _dtypes(self) -> Iterator[dt.dtype]:
        if self.sample is None or not any(_floating(a) for a in _arrays(self.sample)):
            return
        for d in DTYPES:
            with contextlib.suppress(Exception), _quiet():
                self.fn(*_tensors(self.sample.args, d), **_tensors(self.sample.kwargs, d))
                yield d

    def _gradient(self) -> str:
        if self.sample is None or not any(_floating(a) for a in _arrays(self.sample)):
            return ""
        args = _tensors(self.sample.args, dt.float64, True)
        kwargs = {
            k: _tensors(v, dt.float64, k not in self.sample.fixed)
            for k, v in self.sample.kwargs.items()
        }
        with _quiet():
            out = self.fn(*args, **kwargs)
        outs = out if isinstance(out, list | tuple) else [out]
        tracked = [isinstance(o, Tensor) and o.requires_grad for o in outs]
        return "yes" if all(tracked) else "of some results" if any(tracked) else "no"

    def _errors(self) -> Iterator[str]:
        seen = set()
        for s in self.samples:
            code = s.error and _code(self, s)
            shown = code and _run(code, s.error)
            if shown and shown.split("\n")[-2] not in seen:
                seen.add(shown.split("\n")[-2])
                yield shown


def pages() -> Iterator[Page]:
    """A page for each public function, in the order of names; an alias has its function's."""
    import_all()
    for name, fn in sorted(FUNCTIONS.items()):
        if _listed(name) and _first_name(fn, name) == name:
            yield Page(name, fn)


def index(found: list[Page]) -> str:
    """The page that lists all others, under each name of their functions, by namespace."""
    of = {id(p.fn): p for p in found}
    rooms: dict[str, list[str]] = {}
    for name, fn in sorted(FUNCTIONS.items()):
        if id(fn) in of and _listed(name):
            page, (room, _, short) = of[id(fn)], name.rpartition(".")
            row = f"| [{short}](kiln.{page.name}.md) | {_cell(page.summary)} |"
            rooms.setdefault(room, []).append(row)
    parts = [f"# Kiln {kiln.__version__}: API reference\n"]
    for room, rows in sorted(rooms.items()):
        parts += [f"## kiln{'.' * bool(room)}{room}\n\n| | |\n|---|---|", *rows, ""]
    return "\n".join(parts)


def _listed(name: str) -> bool:
    """Whether a name is one of those that have a page: not an in-place form, which the other's page names."""
    private = name.rpartition(".")[2].startswith("_")
    return not private and not (name.endswith("_") and name[:-1] in FUNCTIONS)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _first_name(fn: Any, name: str) -> str:
    """The name under which a function has its page: its own, in the namespace that is shortest."""
    names = [n for n, f in FUNCTIONS.items() if f is fn]
    own = [n for n in names if n.rpartition(".")[2] == getattr(fn, "__name__", "")]
    return min(own or names, key=lambda n: (len(n), n)) if len(names) > 1 else name


def _forms(name: str, fn: Any, op: Op | None) -> Iterator[str]:
    for n, f in sorted(FUNCTIONS.items()):
        if f is fn and n != name:
            yield f"kiln.{n}"
    short = name.rpartition(".")[2]
    if "." not in name or op is not None:
        for n in (short, short + "_"):
            if n in METHODS and (op is None or n != short or METHODS[n] is fn):
                yield f"Tensor.{n}"
    if name + "_" in FUNCTIONS:
        yield f"kiln.{name}_"


def _signature(fn: Callable) -> str:
    """A signature without annotations, and without the parameters that are NumPy's other names."""
    sig = inspect.signature(fn)
    kept = []
    for p in sig.parameters.values():
        required = p.default is not p.empty and type(p.default) is object
        if required and p.name in ("axis", "keepdims", "shape"):
            continue
        kept.append(p.replace(annotation=p.empty, default=p.empty if required else p.default))
    with contextlib.suppress(ValueError):
        return str(sig.replace(parameters=kept, return_annotation=sig.empty))
    return "(" + ", ".join(str(p) for p in kept) + ")"


def _samples(name: str, fn: Any) -> list[Sample]:
    op: Op | None = getattr(fn, "op", None)
    key = name.removeprefix("nn.functional.")
    maker = op.samples if op is not None else None
    known = COMPOSITIONS.get(key)
    if maker is None and known is not None and inspect.unwrap(known.fn) is inspect.unwrap(fn):
        maker = known.samples  # what autocast wraps is the same function
    return list(maker()) if maker is not None else []


# ---- examples


def _arrays(x: Any) -> Iterator[np.ndarray]:
    if isinstance(x, Sample):
        yield from _arrays((x.args, x.kwargs))
    elif isinstance(x, np.ndarray | np.generic):
        yield np.asarray(x)
    elif isinstance(x, dict):
        yield from _arrays(list(x.values()))
    elif isinstance(x, list | tuple):
        for y in x:
            yield from _arrays(y)


def _floating(a: np.ndarray) -> bool:
    return a.dtype == np.float64


def _elements(s: Sample) -> tuple[bool, bool, int]:
    arrays = list(_arrays(s))
    sizes = [a.size for a in arrays]
    return 0 in sizes or not any(n > 1 for n in sizes), not any(map(_floating, arrays)), sum(sizes)


def _tensors(x: Any, dtype: dt.dtype, tracked: bool = False) -> Any:
    """Arguments with tensors for arrays, floating ones in this dtype."""
    if isinstance(x, np.ndarray | np.generic):
        a = np.asarray(x)
        t = kiln.tensor(a)
        return t.to(dtype).requires_grad_(tracked) if _floating(a) else t
    if isinstance(x, dict):
        return {k: _tensors(v, dtype, tracked) for k, v in x.items()}
    if type(x) in (list, tuple):
        return type(x)(_tensors(y, dtype, tracked) for y in x)
    return x


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class _Unwritable(Exception):
    """An argument that can't be written as code."""


def _literal(x: Any) -> str:
    """A Python value as code; arrays were named before."""
    if isinstance(x, dt.dtype):
        return f"kiln.{x.name}"
    if x is None or x is Ellipsis or isinstance(x, bool | int | float | complex | str):
        text = "..." if x is Ellipsis else repr(x)
        return f"float('{text}')" if text in ("inf", "-inf", "nan") else text
    if isinstance(x, slice):
        return f"slice({x.start}, {x.stop}, {x.step})"
    if type(x) is list:
        return f"[{', '.join(map(_literal, x))}]"
    if type(x) is tuple:
        return f"({', '.join(map(_literal, x))}{',' * (len(x) == 1)})"
    raise _Unwritable


def _tensor_code(a: np.ndarray) -> str:
    """An array as code that makes a tensor; floats in two digits and the default dtype."""
    known = {v.np: k for k, v in vars(kiln).items() if isinstance(v, dt.dtype)}
    if a.dtype not in known:
        raise _Unwritable
    plain = a.dtype in (np.float64, np.int64, np.bool_)
    end = "" if plain and a.size else f", dtype=kiln.{dt.OF_NUMPY[a.dtype].name}"
    if a.size > SMALL:
        if a.dtype.kind not in "fc":
            raise _Unwritable
        turn = " * (1 + 2j)" if a.dtype.kind == "c" else ""
        return f"kiln.linspace(-1, 1, {a.size}).reshape({tuple(a.shape)}){turn}"
    if not a.size:
        return f"kiln.empty({tuple(a.shape)}{end})"
    values = np.round(a, 2) if a.dtype.kind in "fc" else a
    text = re.sub(r"\b(inf|nan)\b", r"float('\1')", repr(values.tolist()))
    return f"kiln.tensor({text}{end})"


def _code(page: Page, s: Sample) -> list[str]:
    """The lines of a call; none where its arguments can't be written."""
    lines: list[str] = []
    names = iter("xyzabcdefgh")

    def named(x: Any) -> str:
        if isinstance(x, np.ndarray | np.generic):
            text = _tensor_code(np.asarray(x))
            if len(text) < 32:
                return text
            name = next(names)
            lines.append(f"{name} = {text}")
            return name
        if type(x) in (list, tuple) and any(True for _ in _arrays(x)):
            inner = ", ".join(map(named, x))
            return f"[{inner}]" if type(x) is list else f"({inner}{',' * (len(x) == 1)})"
        return _literal(x)

    try:
        args = [*map(named, s.args), *(f"{k}={named(v)}" for k, v in s.kwargs.items())]
    except (_Unwritable, StopIteration):
        return []
    if page.op is not None and page.op.family == "random":
        lines.insert(0, "kiln.manual_seed(0)")
    return [*lines, f"kiln.{page.name}({', '.join(args)})"]


def _run(code: list[str], error: type[Exception] | None = None) -> str:
    """The lines as a console shows them with what the last one gives; empty where it doesn't as expected."""
    space: dict[str, Any] = {"kiln": kiln}
    shown = "".join(f"{PROMPT}{line}\n" for line in code)
    try:
        with _quiet(), contextlib.redirect_stdout(io.StringIO()):
            for line in code[:-1]:
                exec(line, space)
            out = eval(code[-1], space)
    except Exception as e:
        return f"{shown}{type(e).__name__}: {e}\n" if error and isinstance(e, error) else ""
    return "" if error else shown + _shown(out) + "\n"


def _shown(out: Any) -> str:
    """A result as text; of a large tensor only what it is."""
    if isinstance(out, Tensor) and out.numel() > SMALL:
        return f"a tensor of {out.dtype.name}, {list(out.shape)}"
    if isinstance(out, tuple | list) and any(
        isinstance(o, Tensor) and o.numel() > SMALL for o in out
    ):
        return "\n".join(map(_shown, out))
    return repr(out)


def check(text: str) -> list[str]:
    """Run a page's examples again; gives what doesn't show what the page says."""
    wrong = []
    for block in re.findall(r"```python\n(>>> .*?)```", text, re.DOTALL):
        examples = doctest.DocTestParser().get_examples(block)
        last = examples[-1].want
        error = re.match(r"(\w+): ", last)
        lines = [e.source.rstrip("\n") for e in examples]
        got = _run(lines, Exception if error and "tensor" not in error[1] else None)
        if got != block:
            wrong.append(f"{block}is now:\n{got}")
    return wrong
