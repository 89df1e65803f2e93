"""Who holds what memory."""

from __future__ import annotations

import gc

import pytest

import kiln
from kiln import nn
from kiln.backends.one_call import shelf

MB = 1 << 20


@pytest.fixture(autouse=True)
def _nothing_of_others() -> None:
    gc.collect()


def test_each_holder_by_its_kind() -> None:
    before = kiln.memory_report()
    model = nn.Sequential(nn.Linear(512, 1024), nn.BatchNorm1d(1024), nn.Linear(1024, 256))
    opt = kiln.optim.Adam(model.parameters())
    weights = 4 * sum(p.numel() for p in model.parameters())
    x = kiln.randn(64, 512)
    made = kiln.memory_report()
    assert made["parameters"] - before["parameters"] == weights
    assert made["buffers"] - before["buffers"] == 2 * 1024 * 4 + 8
    assert made["other tensors"] - before["other tensors"] >= x.numel() * 4
    loss = model(x).square().sum()
    forward = kiln.memory_report()
    # what the two layers and the norm give, and the square's argument
    assert forward["saved for backward"] - made["saved for backward"] >= 64 * (1024 * 2 + 256) * 4
    loss.backward()
    opt.step()
    after = kiln.memory_report()
    assert after["gradients"] - before["gradients"] == weights
    assert 2 * weights <= after["optimizer state"] - before["optimizer state"] < 2 * weights + 1024
    assert after["saved for backward"] - before["saved for backward"] < MB / 4
    assert after["parameters"] == made["parameters"]
    held = {(h.kind, h.name): h.bytes for h in after.holdings}
    assert held["parameters", "0.weight"] >= 512 * 1024 * 4
    assert held["gradients", "0.weight"] >= 512 * 1024 * 4
    assert held["optimizer state", "exp_avg of 0.weight"] >= 512 * 1024 * 4
    assert after.total == sum(h.bytes for h in after.holdings)
    text = str(after)
    assert "exp_avg of 0.weight" in text
    assert "MB" in text
    with pytest.raises(KeyError):
        after["elsewhere"]


def test_what_is_frozen_is_counted() -> None:
    x = kiln.zeros(1024, 256)
    gc.collect()
    gc.freeze()
    try:
        report = kiln.memory_report()
        assert report["other tensors"] >= x.numel() * 4
        assert gc.get_freeze_count() > 0
        del x
        assert report["other tensors"] - kiln.memory_report()["other tensors"] == MB
    finally:
        gc.unfreeze()


def test_views_are_counted_once_and_programs_by_name() -> None:
    before = kiln.memory_report()
    x = kiln.zeros(1024, 256)
    views = [x[i] for i in range(10)]
    assert kiln.memory_report()["other tensors"] - before["other tensors"] == MB
    assert len(views) == 10

    @kiln.compile
    def gram(x: kiln.Tensor) -> kiln.Tensor:
        return ((x.T @ x).exp() @ x.T).sum()

    gram(x)
    report = kiln.memory_report()
    mine = [h for h in report.holdings if h.name == "gram"]
    assert mine[0].kind == "compiled programs"
    assert mine[0].bytes == gram.memory_stats()["held_bytes"]


def test_compiled_forward_and_memory_that_waits() -> None:
    model = nn.Sequential(nn.Linear(256, 512), nn.Tanh(), nn.Linear(512, 512))
    fast = kiln.compile(model)
    before = kiln.memory_report()
    out = fast(kiln.randn(512, 256))
    during = kiln.memory_report()
    # what tanh gives is saved for the backward program
    assert during["saved for backward"] - before["saved for backward"] >= 512 * 512 * 4
    assert any(h.name == "CompiledBackward0" for h in during.holdings)
    del out
    after = kiln.memory_report()
    assert after["saved for backward"] == before["saved for backward"]
    assert after["cached memory"] > 0
    kiln.cpu.empty_cache()
    report = kiln.memory_report()
    assert report["cached memory"] == 0
    with pytest.raises(KeyError, match="held for no such thing"):
        report["weights"]


def test_what_kernels_of_eager_mode_hold() -> None:
    nn.Conv2d(8, 16, 3)(kiln.randn(4, 8, 20, 20))
    (held,) = (h.bytes for h in kiln.memory_report().holdings if h.name == "kernels of eager mode")
    assert held == shelf().size > 0
