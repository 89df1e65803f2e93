"""Which torch names a program uses, found in its text without running it: `kiln run --torch --report`.

Names are followed through imports, their aliases and plain assignments, as far as Python's scopes say. Methods
are found on values that the text shows to be tensors: what torch functions give, and arguments that say so.
"""

from __future__ import annotations

import ast
import difflib
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from ..float8 import Float8
from ..ops.registry import FUNCTIONS
from ..refusal import Refusal
from ..tensor import Tensor
from .torch import MODULES, absent, face

TENSOR = "Tensor"
"""What a value is that is known to be a tensor; other values are torch paths, or None."""

SKIPPED = {"node_modules", "site-packages", "__pycache__", "build", "dist"}
_PLAIN = {"backward", "data_ptr", "detach_", "dim", "element_size", "get_device", "item", "ndimension", "nelement", "numel",
          "numpy", "register_hook", "size", "storage", "storage_offset", "stride", "tolist", "type"}  # fmt: skip
_SEVERAL = {"aminmax", "chunk", "cummax", "cummin", "eig", "kthvalue", "max", "median", "min", "mode", "qr", "sort", "split",
            "svd", "topk", "unbind", "unique", "slogdet"}  # fmt: skip
_VIEWS = {"H", "T", "data", "grad", "imag", "mH", "mT", "real"}


@dataclass
class Use:
    """A name that is used: how often, and where first."""

    file: str
    line: int
    count: int = 1


@dataclass
class Scope:
    """What names stand for in a module, function or class; `imports` are those that imports bound."""

    values: dict[str, str | None] = field(default_factory=dict)
    imports: set[str] = field(default_factory=set)


class Reader(ast.NodeVisitor):
    """Collects the torch names of one file."""

    def __init__(self, file: str, uses: dict[str, Use]):
        self.file, self.uses = file, uses
        self.scopes: list[Scope] = [Scope()]
        self.stars: list[str] = []
        self.modules: set[tuple[str, int]] = set()  # what it imports that is not torch's
        self.recording = True

    def use(self, name: str, node: Any) -> None:
        if not self.recording:
            return
        found = self.uses.get(name)
        if found is None:
            self.uses[name] = Use(self.file, node.lineno)
        else:
            found.count += 1

    # ---- what binds names

    def visit_Import(self, node: ast.Import) -> None:
        for a in node.names:
            if a.name.partition(".")[0] in MODULES:
                self.use(a.name, node)
                self.bind(
                    a.asname or a.name.partition(".")[0],
                    a.name if a.asname else a.name.partition(".")[0],
                )
            else:
                self.modules.add((a.name, 0))
                self.bind(a.asname or a.name.partition(".")[0], None)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = node.module or ""
        ours = not node.level and module.partition(".")[0] in MODULES
        if not ours:
            self.modules.add((module, node.level))
            self.modules.update((f"{module}.{a.name}".strip("."), node.level) for a in node.names)
        for a in node.names:
            if ours and a.name == "*":
                self.use(module, node)
                if self.recording:
                    self.stars.append(module)
            elif ours:
                self.use(f"{module}.{a.name}", node)
                self.bind(a.asname or a.name, f"{module}.{a.name}")
            else:
                self.bind(a.asname or a.name, None)

    def bind(self, name: str, value: str | None) -> None:
        self.scopes[-1].values[name] = value
        self.scopes[-1].imports.add(name)

    def assign(self, target: ast.expr, value: str | None) -> None:
        if isinstance(target, ast.Name):
            scope = self.scopes[-1]
            if (
                value is not None or target.id not in scope.imports
            ):  # `except ImportError: torch = None`
                scope.values[target.id] = value
        elif isinstance(target, ast.Tuple | ast.List):
            for t in target.elts:
                self.assign(t, None)
        elif isinstance(target, ast.Starred):
            self.assign(target.value, None)
        else:
            self.kind(target)

    def visit_Assign(self, node: ast.Assign) -> None:
        value = self.kind(node.value)
        for t in node.targets:
            self.assign(t, value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        said = self.said(node.annotation)
        value = None if node.value is None else self.kind(node.value)
        self.assign(node.target, said or value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.kind(node.value)
        self.kind(node.target)

    def visit_For(self, node: ast.For) -> None:
        value = self.kind(node.iter)
        self.assign(node.target, value if value == TENSOR else None)
        for s in (*node.body, *node.orelse):
            self.visit(s)

    visit_AsyncFor = visit_For  # type: ignore[assignment]

    def visit_With(self, node: ast.With) -> None:
        for item in node.items:
            self.kind(item.context_expr)
            if item.optional_vars is not None:
                self.assign(item.optional_vars, None)
        for s in node.body:
            self.visit(s)

    visit_AsyncWith = visit_With  # type: ignore[assignment]

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for d in node.decorator_list:
            self.kind(d)
        self.assign(ast.Name(node.name), None)
        self.function(node.args, node.body)
        if node.returns is not None:
            self.kind(node.returns)

    visit_AsyncFunctionDef = visit_FunctionDef  # type: ignore[assignment]

    def function(self, args: ast.arguments, body: list[Any]) -> None:
        for d in (*args.defaults, *args.kw_defaults):
            if d is not None:
                self.kind(d)
        given = [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]
        values = {
            a.arg: None if a.annotation is None else self.said(a.annotation)
            for a in given
            if a is not None
        }
        self.inside(Scope(values), body)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for e in (*node.decorator_list, *node.bases, *(k.value for k in node.keywords)):
            self.kind(e)
        self.assign(ast.Name(node.name), None)
        self.inside(Scope(), node.body)

    def inside(self, scope: Scope, body: list[Any]) -> None:
        self.scopes.append(scope)
        self.imported(body)
        for s in body:
            self.visit(s)
        self.scopes.pop()

    def imported(self, body: list[Any]) -> None:
        """Bind what a body imports anywhere, as functions above may use it."""
        with self.unrecorded():
            for s in _statements(body):
                self.visit(s)

    @contextmanager
    def unrecorded(self) -> Iterator[None]:
        """Look at what was recorded already, or will be."""
        before, self.recording = self.recording, False
        try:
            yield
        finally:
            self.recording = before

    # ---- what expressions stand for

    def said(self, annotation: ast.expr) -> str | None:
        found = self.kind(annotation)
        return TENSOR if found in ("torch.Tensor", "torch.nn.Parameter") else None

    def visit(self, node: ast.AST) -> Any:
        if isinstance(node, ast.expr):
            return self.kind(node)
        return super().visit(node)

    def kind(self, node: ast.expr) -> str | None:
        """What an expression stands for; records the names in it."""
        if isinstance(node, ast.Attribute):
            chain = self.path(node)
            if chain is not None:
                self.use(chain, node)
                return chain
            value = self.kind(node.value)
            if value == TENSOR:
                self.use(f"Tensor.{node.attr}", node)
                return TENSOR if node.attr in _VIEWS else None
            return None
        if isinstance(node, ast.Name):
            found = self.path(node)
            if found is not None and "." in found and node.id not in self.known():
                self.use(found, node)  # by a star import
            return found if found is not None else self.looked_up(node.id)
        if isinstance(node, ast.Call):
            return self.call(node)
        if isinstance(node, ast.Lambda):
            self.function(node.args, [ast.Expr(node.body)])
            return None
        if isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp):
            self.comprehension(node)
            return None
        found = [self.kind(c) for c in ast.iter_child_nodes(node) if isinstance(c, ast.expr)]
        if isinstance(node, ast.BinOp | ast.UnaryOp | ast.Compare) and TENSOR in found:
            return TENSOR
        if isinstance(node, ast.Subscript) and found[0] == TENSOR:
            return TENSOR
        if isinstance(node, ast.IfExp):
            return found[1] if found[1] is not None else found[2]
        return None

    def comprehension(self, node: Any) -> None:
        self.scopes.append(Scope())
        for g in node.generators:
            value = self.kind(g.iter)
            self.assign(g.target, value if value == TENSOR else None)
            for c in g.ifs:
                self.kind(c)
        for e in [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]:
            self.kind(e)
        self.scopes.pop()

    def call(self, node: ast.Call) -> str | None:
        for a in (*node.args, *(k.value for k in node.keywords)):
            self.kind(a)
        f = node.func
        if isinstance(f, ast.Name) and f.id == "getattr" and len(node.args) > 1:
            base, name = self.path(node.args[0]), node.args[1]
            if base is not None and isinstance(name, ast.Constant) and isinstance(name.value, str):
                if len(node.args) == 2:
                    self.use(f"{base}.{name.value}", node)
                return f"{base}.{name.value}"
        found = self.kind(f)
        if found is not None and found != TENSOR:
            return TENSOR if _gives_tensor(found) else None
        if (
            isinstance(f, ast.Attribute)
            and f.attr not in _PLAIN | _SEVERAL
            and hasattr(Tensor, f.attr)
        ):
            with self.unrecorded():
                return (
                    TENSOR
                    if self.kind(f.value) == TENSOR and not f.attr.startswith("is_")
                    else None
                )
        return None

    def path(self, node: ast.expr) -> str | None:
        """The torch path of a name or a chain of attributes, None for other expressions."""
        if isinstance(node, ast.Attribute):
            base = self.path(node.value)
            return None if base is None else f"{base}.{node.attr}"
        if not isinstance(node, ast.Name):
            return None
        if node.id in self.known():
            found = self.looked_up(node.id)
            return None if found == TENSOR else found
        for module in self.stars:
            if node.id in _public(module):
                return f"{module}.{node.id}"
        return None

    def known(self) -> set[str]:
        return {n for s in self.scopes for n in s.values}

    def looked_up(self, name: str) -> str | None:
        for s in reversed(self.scopes):
            if name in s.values:
                return s.values[name]
        return None


def _statements(body: list[Any]) -> Iterator[ast.stmt]:
    """The imports of a body, but for those of functions and classes in it."""
    for s in body:
        if isinstance(s, ast.Import | ast.ImportFrom):
            yield s
        elif isinstance(s, ast.stmt) and not isinstance(
            s, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
        ):
            yield from _statements(list(ast.iter_child_nodes(s)))
        elif isinstance(s, ast.ExceptHandler | ast.match_case):
            yield from _statements(s.body)


def _public(module: str) -> list[str]:
    try:
        return list(face(module).__all__)
    except ImportError:
        return []


def _object(name: str) -> Any:
    """What a torch path stands for in Kiln; AttributeError or ImportError where there is none."""
    root, *parts = name.split(".")
    found: Any = face(root)
    for i, part in enumerate(parts):
        if not isinstance(found, ModuleType | type) and i and not hasattr(found, part):
            return found  # an attribute of an object that programs set
        found = getattr(found, part)
    return found


def _gives_tensor(name: str) -> bool:
    try:
        found = _object(name)
    except (AttributeError, ImportError, RuntimeError):
        return False
    short = name.rpartition(".")[2]
    if isinstance(found, type):
        return issubclass(found, Tensor)
    return (
        short not in _SEVERAL | _PLAIN
        and not short.startswith("is_")
        and found is FUNCTIONS.get(short)
    )


def status(name: str) -> tuple[str, str]:
    """Whether Kiln has a name: "there", "refused" or "missing", and what is to be said about that."""
    if name.startswith("Tensor."):
        if hasattr(Tensor, name[7:]):
            return "there", ""
        near = difflib.get_close_matches(name[7:], dir(Tensor), 1, 0.6)
        return "missing", f"the nearest is Tensor.{near[0]}" if near else ""
    try:
        found = _object(name)
    except RuntimeError as e:  # a class of C++, as PyTorch says it of one that is not registered
        return "refused", str(e)
    except (AttributeError, ImportError):
        parts = name.split(".")
        for i in range(2, len(parts)):  # the first that is missing is the one to tell of
            try:
                _object(".".join(parts[:i]))
            except (AttributeError, ImportError):
                name = ".".join(parts[:i])
                break
        text = absent(name)
        return "missing", text.partition("help: ")[2].partition(";")[0] if "nearest" in text else ""
    return ("refused", found._why) if isinstance(found, Refusal | Float8) else ("there", "")


def read(paths: list[str]) -> tuple[dict[str, Use], list[str], list[str]]:
    """The torch names of files, folders and the files beside them that they import; the files; what can't be read."""
    uses: dict[str, Use] = {}
    files: list[str] = []
    failed: list[str] = []
    waiting: deque[tuple[Path, Path]] = deque()
    for p in map(Path, paths):
        if p.is_dir():
            found = sorted(f for f in p.rglob("*.py") if not _skipped(f.relative_to(p)))
            waiting.extend((f, p) for f in found)
        else:
            waiting.append((p, p.parent))
    seen: set[Path] = set()
    while waiting:
        path, root = waiting.popleft()
        if path.resolve() in seen:
            continue
        seen.add(path.resolve())
        try:
            tree = ast.parse(path.read_bytes(), str(path))
        except (OSError, SyntaxError, ValueError) as e:
            failed.append(f"{path}: {e}")
            continue
        files.append(str(path))
        reader = Reader(str(path), uses)
        reader.imported(tree.body)
        for s in tree.body:
            reader.visit(s)
        for module, level in sorted(reader.modules):
            start = path.parents[level - 1] if level else root
            for base in (start / Path(*module.split(".")), path.parent / Path(*module.split("."))):
                for f in (base.with_suffix(".py"), base / "__init__.py"):
                    if module and f.is_file():
                        waiting.append((f, root))
    return uses, files, failed


def _skipped(path: Path) -> bool:
    return any(part in SKIPPED or part.startswith(".") for part in path.parts)


def report(paths: list[str]) -> int:
    """Print which torch names files use and which are missing; 1 where any is, or a file can't be read, else 0."""
    uses, files, failed = read(paths)
    rows: dict[str, list[tuple[str, Use, str]]] = {"missing": [], "refused": [], "there": []}
    for name in sorted(uses):
        kind, text = status(name)
        rows[kind].append((name, uses[name], text))
    for text in failed:
        print(f"can't read {text}", file=sys.stderr)
    n = {k: len(v) for k, v in rows.items()}
    print(f"{len(files)} {'file' if len(files) == 1 else 'files'}, {sum(n.values())} torch names: {n['there']} there, "
          f"{n['refused']} refused when used, {n['missing']} missing")  # fmt: skip
    width = max((len(name) for name in uses), default=0)
    for kind, found in rows.items():
        if found:
            print(f"\n{kind}")
        for name, use, text in found:
            line = f"  {name:<{width}}  {use.count:>4}  {use.file}:{use.line}"
            print(f"{line}  {text}" if text else line)
    return 1 if rows["missing"] or failed else 0
