"""PyTorch's operator database against Kiln: a selection, and that the runner sees what is wrong."""

from __future__ import annotations

import os
import signal
import time
from types import SimpleNamespace

import numpy as np
import pytest

import kiln

torch = pytest.importorskip("torch", reason="PyTorch is not installed: extra [peers]")
pytest.importorskip("expecttest", reason="extra [peers] is not installed")
pytestmark = pytest.mark.peers


@pytest.fixture(scope="module")
def db() -> SimpleNamespace:
    """The runner, and the entries by name; imported here, as the database takes seconds to load."""
    from tests.conformance.database import checks, crossing, entries, table, workers

    names = {entries.key(e): e for e in entries.ENTRIES}
    return SimpleNamespace(
        checks=checks, crossing=crossing, table=table, workers=workers, names=names
    )


def quick(db: SimpleNamespace, **given: object) -> object:
    """Settings of few checks."""
    return db.checks.Settings(
        **{"dtypes": ("float64",), "samples": 3, "forms": 0, "second": 1} | given
    )


def verdict(db: SimpleNamespace, name: str, module: object = kiln, **given: object) -> dict:
    entry = db.names[name]
    outcomes = db.checks.examine(entry, db.crossing.Target(module), quick(db, **given))
    return db.table.record(entry, list(outcomes), 0.0)


class Broken:
    """Kiln with other functions in some places, and without some names."""

    def __init__(self, without: str = "", **functions: object):
        self.without, self.functions = without, functions

    def __getattr__(self, name: str) -> object:
        if name == self.without:
            raise AttributeError(name)
        return self.functions[name] if name in self.functions else getattr(kiln, name)


SELECTION = [
    "add", "exp", "std", "amax", "argsort", "cumsum", "index_copy", "roll", "as_strided[partial_views]", "where", "cat",
    "einsum", "baddbmm", "masked_fill", "searchsorted", "scatter_reduce[amax]", "nextafter", "cov", "linalg.norm",
    "fft.rfft", "nn.functional.grid_sample", "nn.functional.cross_entropy", "nn.functional.group_norm",
]  # fmt: skip


@pytest.mark.parametrize("name", SELECTION)
def test_selection(db, name):
    """Of each kind of function one, in all that is compared; the runner itself takes them all."""
    found = verdict(db, name, dtypes=("float64", "int64"), samples=2, forms=1)
    assert found["status"] == "passed", found["why"]
    assert not {"method", "operator", "alias"}.intersection(found["first"])


@pytest.mark.parametrize(
    ("name", "fn", "aspect"),
    [
        ("hypot", lambda x, y: kiln.hypot(x, y) * 1.001, "values float64"),
        ("floor", lambda x: kiln.floor(x).to(kiln.float32), "values float64"),
        ("sin", lambda x: kiln.sin(x.detach()), "gradients float64"),
        ("cos", lambda x: kiln.cos(x) + (x - x.detach()), "gradients float64"),
        ("exp", lambda x: kiln.exp(x.detach()) * (1 + x - x.detach()), "second gradients float64"),
        ("split", lambda *a, **k: kiln.split(*a, **k)[:-1], "values float64"),
        ("sort", lambda x, **k: kiln.sort(x.detach() + 0), "values float64"),
        ("gather", lambda x, *a, **k: x, "errors"),
    ],
)
def test_sees_what_is_wrong(db, name, fn, aspect):
    wrong = verdict(db, name, Broken(**{name: fn}))
    assert aspect in wrong["first"]
    assert wrong["status"] == "failed"


def test_names_that_are_missing(db):
    assert verdict(db, "tanh", Broken("tanh"))["status"] == "missing"
    assert verdict(db, "torch.ops.aten._safe_softmax.default")["status"] == "left out"


def test_functions_of_the_database_call_kiln(db):
    """An entry's Python function runs with each function of PyTorch that it calls replaced."""
    called = []
    spied = Broken(einsum=lambda equation, x: called.extend(x) or kiln.einsum(equation, x))
    assert verdict(db, "einsum", spied)["status"] == "passed"
    assert called
    assert all(isinstance(t, kiln.Tensor) for t in called)


def bounded(db: SimpleNamespace, module: object, names: tuple, **bounds: float) -> dict[str, dict]:
    """The records of entries that run in processes."""
    settings = quick(db, samples=2, second=0, errors=False)
    target, limits = db.crossing.Target(module), db.workers.Bounds(**bounds)
    return db.table.records(
        db.workers.run([db.names[n] for n in names], target, settings, limits, 2)
    )


def test_a_crash_or_a_glutton_is_the_failure_of_one_entry(db):
    module = Broken(
        tanh=lambda x: os.kill(os.getpid(), signal.SIGKILL),
        cosh=lambda x: np.empty(4 << 30, np.uint8),
    )
    found = bounded(db, module, ("tanh", "cosh", "sinh"), seconds=120, memory=2048)
    assert found["sinh"]["status"] == "passed"
    assert "died of SIGKILL" in found["tanh"]["why"]
    assert "more than 2048 MiB" in found["cosh"]["why"]


def test_a_hang_is_the_failure_of_one_entry(db):
    found = bounded(db, Broken(tan=lambda x: time.sleep(600)), ("tan",), seconds=1)
    assert "no end after 1 s" in found["tan"]["why"]


def test_memory_crosses_as_it_is(db):
    """Strides, shared memory and identity are the same on the other side."""
    base = torch.arange(12.0, dtype=torch.float64).reshape(3, 4)
    a, b, twice = db.crossing.Crossing(db.crossing.Target(kiln))(
        (base.t(), base[1:], base[1:].detach())
    )
    again = db.crossing.Crossing(db.crossing.Target(kiln))([base, base])
    assert a.stride() == base.t().stride()
    b[0, 0] = -1.0
    assert a[0, 1] == -1.0 == twice[0, 0]
    assert base[1, 0] == 4.0
    assert again[0] is again[1]


def test_page(db):
    """The page of a run names what fails, what is missing and what is left out, with its reason."""
    bare = Broken("tanh", floor=lambda x: kiln.floor(x) + 1)
    names = ("floor", "tanh", "sin", "torch.ops.aten._safe_softmax.default")
    entries = {n: verdict(db, n, bare) for n in names}
    text = db.table.page(
        {
            "torch": "2",
            "kiln": "0",
            "settings": {"dtypes": ["float64"], "samples": 3},
            "entries": entries,
        }
    )
    assert "**1 of 3 entries agree**" in text
    assert "| `floor` | values float64: " in text
    assert "| `tanh` | tanh |" in text
    assert (
        "| an operator of ATen, without a public name | `torch.ops.aten._safe_softmax.default` |"
        in text
    )
