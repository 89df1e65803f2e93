"""PyTorch's module database against Kiln: a selection, and that the runner sees what is wrong."""

from __future__ import annotations

from types import ModuleType

import pytest

from kiln import nn

torch = pytest.importorskip("torch", reason="PyTorch is not installed: extra [peers]")
pytest.importorskip("expecttest", reason="extra [peers] is not installed")
pytestmark = pytest.mark.peers

SELECTION = [
    "Linear", "Conv2d", "ConvTranspose1d", "LazyConv1d", "BatchNorm2d", "InstanceNorm1d", "RMSNorm", "Embedding", "PReLU",
    "FractionalMaxPool2d", "CircularPad1d", "CrossEntropyLoss", "Bilinear", "LSTMCell", "TransformerDecoderLayer",
]  # fmt: skip


@pytest.fixture(scope="module")
def runner() -> ModuleType:
    """The runner, imported here, as the database takes seconds to load."""
    from tests.conformance import modules

    return modules


@pytest.mark.parametrize("name", SELECTION)
def test_selection(runner, name):
    """Of each kind of module one; the runner itself takes them all."""
    found = list(runner.examine(name, ("float64",), 3))
    assert found
    assert [f for f in found if f[1]] == []


@pytest.mark.parametrize(
    ("attribute", "wrong", "aspect"),
    [
        ("forward", lambda self, x: nn.functional.linear(x, self.weight, self.bias) * 1.001, "values float64"),
        ("forward", lambda self, x: nn.functional.linear(x, self.weight.detach(), self.bias), "gradients float64"),
        ("extra_repr", lambda self: "features", "texts"),
        ("_own_state", lambda self: dict(self._parameters, extra=self.weight), "state dicts"),
    ],
)  # fmt: skip
def test_sees_what_is_wrong(runner, monkeypatch, attribute, wrong, aspect):
    monkeypatch.setattr(nn.Linear, attribute, wrong)
    assert aspect in {a for a, differs in runner.examine("Linear", ("float64",), 3) if differs}
