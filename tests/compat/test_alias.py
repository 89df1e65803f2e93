"""PyTorch programs under the alias: what `import torch` means, and how they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.turns import in_turn

import kiln
from kiln.compat import torch as alias
from kiln.torch_version import TorchVersion


def run(
    program: str, folder: Path, *args: str, options: tuple[str, ...] = ()
) -> subprocess.CompletedProcess:
    """A program's run under `kiln run --torch`."""
    (folder / "program.py").write_text(program)
    return subprocess.run(
        [sys.executable, "-m", "kiln.run", "--torch", *options, "program.py", *args],
        capture_output=True, text=True, check=False, timeout=120, cwd=folder,
    )  # fmt: skip


IMPORTS = """
import copy, importlib.metadata, importlib.util, pickle, subprocess, sys
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor, optim
from torch.nn.modules.container import Sequential
from torch.nn.modules.module import Module
from torch.nn.parameter import Parameter
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset
from torch.autograd import Variable
from torch.nn import *
import helper

assert torch.nn is nn and torch.nn.functional is F and torch.optim is optim
assert issubclass(nn.Linear, Module) and Linear is nn.Linear and Sequential is nn.Sequential
x = torch.ones(2, 3)
assert isinstance(x, torch.Tensor) and isinstance(x, torch.FloatTensor) and x.type() == "torch.FloatTensor"
assert str(x.dtype) == "torch.float32" and repr(x.shape) == "torch.Size([2, 3])"
assert torch.__version__.startswith("2.") and torch.__version__ >= (2, 1) and torch.__version__ > "1.13.1"
assert importlib.metadata.version("torch") == torch.__version__ == torch.version.__version__
assert importlib.util.find_spec("torch.nn") and importlib.util.find_spec("torch.nothing") is None

assert not [m for m in sys.modules.values() if "torch/_C" in str(getattr(m, "__file__", ""))]

def relu(x, inplace=False):
    return x * 0
before, F.relu = F.relu, relu          # a name set here is set for all
assert nn.ReLU()(x).sum() == 0
F.relu = before
assert nn.ReLU()(x).sum() == 6

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 4)
net = pickle.loads(pickle.dumps(Net()))
assert type(net) is Net and net.fc(x).shape == (2, 4)
child = "import torch, sys; assert 'kiln' in repr(torch); print(sys.argv[1])"
subprocess.run([sys.executable, "-c", child, "child"], check=True)
print(sys.argv, __name__, __file__, helper.value)
"""


def test_imports_and_names_mean_kiln(tmp_path):
    (tmp_path / "helper.py").write_text("import torch\nvalue = torch.arange(3).tolist()\n")
    done = run(IMPORTS, tmp_path, "--lr", "0.1", "-m", "--report")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "child", "['program.py', '--lr', '0.1', '-m', '--report'] __main__ program.py [0, 1, 2]",
    ]  # fmt: skip


TYPES = """
import pickle, torch
from torch import nn
from torch.fx import Tracer

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 2)
    def forward(self, x):
        return self.fc(x).relu()

class Layers(Tracer):
    def is_leaf_module(self, m, name):
        return m.__module__.startswith("torch.nn")

net = Net()
sgd = torch.optim.RMSprop(net.parameters())
shown = [torch.ones(1), net.fc.weight, torch.float32, torch.Size([1]), torch.device("cpu"), net.fc, nn.MultiheadAttention(2, 1).out_proj,
         sgd, torch.optim.lr_scheduler.StepLR(sgd, 1), torch.distributions.LogNormal(0.0, 1.0), torch.utils.data.Dataset(), torch.no_grad()]
for x in shown:
    print(type(x))
print(torch.FloatTensor, [n.target for n in Layers().trace(net).nodes][1])
assert type(pickle.loads(pickle.dumps(net.fc))) is nn.Linear and pickle.loads(pickle.dumps(nn.Linear)) is nn.Linear
torch.save(net.fc, "layer.pt")
assert type(torch.load("layer.pt", weights_only=False)) is nn.Linear
"""


def test_types_are_shown_where_pytorch_has_them(tmp_path):
    done = run(TYPES, tmp_path)
    assert done.returncode == 0, done.stderr
    names = [
        "Tensor", "nn.parameter.Parameter", "dtype", "Size", "device", "nn.modules.linear.Linear",
        "nn.modules.linear.NonDynamicallyQuantizableLinear", "optim.rmsprop.RMSprop", "optim.lr_scheduler.StepLR",
        "distributions.log_normal.LogNormal", "utils.data.dataset.Dataset", "autograd.grad_mode.no_grad",
    ]  # fmt: skip
    *lines, last = done.stdout.splitlines()
    assert lines == [f"<class 'torch.{n}'>" for n in names]
    assert last == "<class 'torch.FloatTensor'> fc"


def test_annotations_of_classes_can_be_evaluated(tmp_path):
    done = run(
        """
import typing, torch
class Net(torch.nn.Module):
    config: dict
assert typing.get_type_hints(Net)["config"] is dict
for c in (torch.Tensor, torch.nn.LSTM, torch.optim.Adam, torch.utils.data.DataLoader, torch.distributions.Normal):
    typing.get_type_hints(c)
from torch._C._functorch import is_batchedtensor
from torch.distributed._tensor.experimental import implicit_replication
seen = []
torch.vmap(lambda x: seen.append(is_batchedtensor(x)) or x + 1)(torch.ones(2))
with implicit_replication():
    assert seen == [True] and not is_batchedtensor(torch.ones(2))
""",
        tmp_path,
    )
    assert not done.returncode, done.stderr


def test_a_module_is_run_as_python_does(tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "package" / "other.py").write_text(
        "import torch; value = torch.ones(2).sum().item()"
    )
    (tmp_path / "package" / "main.py").write_text(
        "import sys\nfrom .other import value\nprint(__name__, sys.argv[1:], value)\nsys.exit(7)"
    )
    done = subprocess.run(
        [sys.executable, "-m", "kiln.cli", "run", "--torch", "-m", "package.main", "--epochs", "1"],
        capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (7, "__main__ ['--epochs', '1'] 2.0\n"), done.stderr


def test_an_error_shows_the_programs_lines_alone(tmp_path):
    done = run("import torch\ndef f():\n    torch.ones(2) @ torch.ones(3)\nf()\n", tmp_path)
    assert done.returncode == 1
    last = done.stderr.rpartition("Traceback")[2]
    files = [line for line in last.splitlines() if line.startswith("  File")]
    assert [f.split('"')[1] for f in files[:2]] == ["program.py"] * 2
    assert "runpy" not in done.stderr
    assert "torch.ones(2) @ torch.ones(3)" in done.stderr


@pytest.mark.parametrize(
    ("statement", "error", "words"),
    [
        ("torch.nn.Lineer(2, 3)", "AttributeError", ["torch.nn.Lineer", "torch.nn.Linear"]),
        ("from torch.nn import Conv2D", "ImportError", ["torch.nn.Conv2D", "torch.nn.Conv2d"]),
        ("import torch.optimm", "ImportError", ["torch.optimm", "torch.optim"]),
        ("import torch.nn.functionals as F", "ImportError", ["torch.nn.functionals", "torch.nn.functional"]),
    ],
)  # fmt: skip
def test_a_name_that_is_not_there_is_named_in_full_with_the_nearest(statement, error, words):
    with alias_installed():
        import builtins

        import torch  # type: ignore[import-not-found]

        with pytest.raises(getattr(builtins, error)) as e:
            exec(statement, {"torch": torch})
    assert all(w in str(e.value) for w in words)


class alias_installed:
    """The alias for the length of a `with` block, PyTorch's own modules set aside."""

    def __enter__(self):
        self.modules = {n: m for n, m in sys.modules.items() if n.partition(".")[0] == "torch"}
        for n in self.modules:
            del sys.modules[n]
        self.path, self.search = os.environ.get("PYTHONPATH"), sys.path.copy()
        self.stream, self.state = kiln.random.get_stream(), kiln.get_rng_state()
        alias.install()

    def __exit__(self, *_):
        from kiln import naming

        sys.meta_path.remove(alias._finder)
        naming.name = "kiln"
        for cls, home in naming._homes.items():
            cls.__module__ = home
        naming._homes.clear()
        alias._adopt.cache_clear()
        for n in [n for n in sys.modules if n.partition(".")[0] == "torch"]:
            del sys.modules[n]
        sys.modules.update(self.modules)
        if self.path is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = self.path
        sys.path[:] = self.search
        kiln.random.set_stream(self.stream)
        kiln.set_rng_state(self.state)


def test_the_same_names_without_installing_anything():
    assert alias.nn.Linear is kiln.nn.Linear
    assert alias.__version__ == alias.VERSION
    with pytest.raises(AttributeError, match=r"torch\.nn\.Lineer"):
        alias.nn.Lineer


def test_pytorch_that_is_imported_already_is_an_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", type(sys)("torch"))
    with pytest.raises(RuntimeError, match="imported already"):
        alias.install()


@in_turn(
    "body,status", [("pass", 0), ("sys.exit()", 0), ("raise SystemExit('bye')", 1)], always=[("sys.exit(3)", 3)]
)  # fmt: skip
def test_exit_status(tmp_path, body, status):
    assert run(f"import sys\n{body}", tmp_path).returncode == status


def test_a_program_that_is_not_there(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "kiln.run", "--torch", "nothing.py"], cwd=tmp_path, capture_output=True, text=True
    )  # fmt: skip
    assert done.returncode == 2
    assert "can't open file" in done.stderr


def test_ctrl_c_ends_it_as_it_ends_python(tmp_path):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    (tmp_path / "program.py").write_text("import time\nprint('on', flush=True)\ntime.sleep(60)\n")
    program = subprocess.Popen(
        [sys.executable, "-m", "kiln.run", "--torch", "program.py"], cwd=tmp_path,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    signal.signal(signal.SIGINT, before)
    try:
        assert program.stdout.readline() == "on\n"
        program.send_signal(signal.SIGINT)
        _, errors = program.communicate(timeout=60)
    finally:
        program.kill()
    assert program.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in errors
    assert "cli/run.py" not in errors


@pytest.mark.parametrize(("smaller", "larger"), [
    ("2.9.1", "2.13.0+kiln"), ("2.13.0a0", "2.13.0"), ((1, 10), "1.10.1"), ("1.9", (1, 10)), ("2.0", "2.0.0+cpu"),
])  # fmt: skip
def test_versions_compare_as_versions(smaller, larger):
    for other in (larger, ".".join(map(str, larger)) if isinstance(larger, tuple) else larger):
        text = ".".join(map(str, smaller)) if isinstance(smaller, tuple) else smaller
        assert TorchVersion(text) < other
        assert TorchVersion(text) != other
        assert not TorchVersion(text) >= other
