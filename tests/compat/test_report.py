"""`kiln run --torch --report`: the names that a program's text uses, found without running it."""

from __future__ import annotations

import textwrap

import pytest

from kiln.cli import main
from kiln.compat import report


def used(tmp_path, text: str) -> dict[str, int]:
    """The names that a file uses, and how often."""
    (tmp_path / "program.py").write_text(textwrap.dedent(text))
    uses, _, failed = report.read([str(tmp_path / "program.py")])
    assert not failed
    return {n: u.count for n, u in uses.items()}


@pytest.mark.parametrize(("text", "names"), [
    ("import torch.nn as nn\nnn.Linear(1, 2)\nnn.Linear(1, 2)", {"torch.nn": 1, "torch.nn.Linear": 2}),
    ("from torch.utils.data import DataLoader as D\nD(1)", {"torch.utils.data.DataLoader": 1}),
    ("import torch\nt = torch\nn = t.nn\nn.Linear", {"torch": 1, "torch.nn": 1, "torch.nn.Linear": 1}),
    ("from torch.nn import *\nLinear(1, 2)\nother", {"torch.nn": 1, "torch.nn.Linear": 1}),
    ("import torch\ndef f(torch):\n    return torch.zeros", {"torch": 1}),
    ("def f():\n    return g.zeros\nimport torch as g", {"torch": 1, "torch.zeros": 1}),
    ("import torch\ngetattr(torch, 'relu')(1)", {"torch": 1, "torch.relu": 1}),
    ("try:\n    import torch\nexcept ImportError:\n    torch = None\ntorch.ones", {"torch": 1, "torch.ones": 1}),
    ("import torch\nclass A(torch.nn.Module):\n    x = torch.ones\n    def f(self):\n        return torch.zeros(1)",
     {"torch": 1, "torch.nn.Module": 1, "torch.ones": 1, "torch.zeros": 1}),
    ("import torch\nx = torch.zeros(3)\ny = x.view(1).foo()\n(x + 1).bar\nz = other(x)\nz.quux()",
     {"torch": 1, "torch.zeros": 1, "Tensor.view": 1, "Tensor.foo": 1, "Tensor.bar": 1}),
    ("import torch\ndef f(x: torch.Tensor):\n    return [r.sum() for r in x], x.size(0).bit_length()",
     {"torch": 1, "torch.Tensor": 1, "Tensor.sum": 1, "Tensor.size": 1}),
    ("import numpy as np\nnp.zeros(3).foo()", {}),
    ("import torch\n@torch.no_grad()\ndef f(a=torch.pi, *b): ...\nlambda torch: torch.ones",
     {"torch": 1, "torch.no_grad": 1, "torch.pi": 1}),
])  # fmt: skip
def test_names_are_followed(tmp_path, text, names):
    assert used(tmp_path, text) == names


def test_files_that_are_imported_are_read_too(tmp_path):
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").write_text("")
    (tmp_path / "pkg" / "model.py").write_text("from . import layers\nimport torch\ntorch.relu")
    (tmp_path / "pkg" / "layers.py").write_text("import torch\ntorch.tanh")
    (tmp_path / "unused.py").write_text("import torch\ntorch.sin")
    assert {"torch.relu", "torch.tanh"} <= used(tmp_path, "from pkg.model import x").keys()
    assert "torch.sin" not in used(tmp_path, "from pkg.model import x")
    assert "torch.sin" in report.read([str(tmp_path)])[0]


def test_the_report_says_what_is_missing_and_where(tmp_path, capsys):
    (tmp_path / "a.py").write_text(
        "import torch\nraise SystemExit('run')\ntorch.nn.Lineer\ntorch.onnx.export\ntorch.zeros(1).vieew(1)\ntorch.absent.x\n"
        "torch.classes.mine.Made(1).run()"
    )
    assert main(["run", "--torch", "--report", str(tmp_path / "a.py")]) == 1
    out = capsys.readouterr().out
    assert "missing" in out.splitlines()[0]
    rows = {line.split()[0]: line for line in out.splitlines() if line.startswith("  ")}
    assert rows["torch.nn.Lineer"].endswith("a.py:3  the nearest is torch.nn.Linear")
    assert rows["Tensor.vieew"].endswith("the nearest is Tensor.view")
    assert "ONNX files are not written yet" in rows["torch.onnx.export"]
    assert "a.py:6" in rows["torch.absent.x"]
    assert "no extension" in rows["torch.classes.mine.Made"]

    (tmp_path / "a.py").write_text("import torch\ntorch.nn.Linear")
    assert main(["run", "--torch", "--report", str(tmp_path / "a.py")]) == 0
    assert "0 missing" in capsys.readouterr().out


def test_a_file_that_is_no_python_is_an_error(tmp_path, capsys):
    (tmp_path / "a.py").write_text("def (")
    assert main(["run", "--torch", "--report", str(tmp_path)]) == 1
    assert "can't read" in capsys.readouterr().err
