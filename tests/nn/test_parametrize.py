"""Parametrized weights: what they are, how they are set, removed, copied, captured; the older hooks; fusion."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import kiln
from kiln import nn
from kiln.nn.utils import fusion, parametrizations, parametrize


class Symmetric(nn.Module):
    def forward(self, x: Any) -> Any:
        return x.triu() + x.triu(1).mT

    def right_inverse(self, x: Any) -> Any:
        return x.triu()


class Double(nn.Module):
    def forward(self, x: Any) -> Any:
        return 2 * x


class Sum(nn.Module):
    def forward(self, a: Any, b: Any) -> Any:
        return a + b

    def right_inverse(self, x: Any) -> Any:
        return x / 2, x / 2


def numpy(x: Any) -> np.ndarray:
    return x.detach().numpy()


def test_a_parametrized_weight_is_computed_when_read() -> None:
    layer = nn.Linear(3, 3)
    assert parametrize.register_parametrization(layer, "weight", Symmetric()) is layer
    w = layer.weight
    assert np.array_equal(numpy(w), numpy(w).T)
    assert list(layer.state_dict()) == ["bias", "parametrizations.weight.original"]
    assert isinstance(layer, nn.Linear)
    assert type(layer).__name__ == "ParametrizedLinear"
    assert parametrize.type_before_parametrizations(layer) is nn.Linear
    assert parametrize.is_parametrized(layer, "weight")
    assert not parametrize.is_parametrized(layer, "bias")
    layer(kiln.ones(1, 3)).sum().backward()
    assert layer.parametrizations.weight.original.grad is not None
    layer.weight = kiln.eye(3)
    assert np.array_equal(numpy(layer.weight), np.eye(3))
    with parametrize.cached():
        assert layer.weight is layer.weight
    assert layer.weight is not layer.weight


def test_removing() -> None:
    for leave in (True, False):
        layer = nn.Linear(3, 3)
        before = numpy(layer.weight).copy()
        parametrize.register_parametrization(layer, "weight", Double())
        parametrize.register_parametrization(layer, "bias", Double())
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=leave)
        assert isinstance(layer.weight, nn.Parameter)
        assert np.allclose(numpy(layer.weight), before * (2 if leave else 1))
        assert parametrize.is_parametrized(layer)
        parametrize.remove_parametrizations(layer, "bias")
        assert type(layer) is nn.Linear
        assert sorted(layer.state_dict()) == ["bias", "weight"]


def test_several_and_buffers() -> None:
    layer = nn.BatchNorm1d(3)
    parametrize.register_parametrization(layer, "running_mean", Double())
    parametrize.register_parametrization(layer, "running_mean", Double())
    layer.parametrizations.running_mean.original.fill_(1.0)
    assert layer.running_mean.tolist() == [4.0] * 3
    assert "parametrizations.running_mean.original" in dict(layer.named_buffers())
    layer = nn.Linear(2, 2)
    before = numpy(layer.weight).copy()
    parametrize.register_parametrization(layer, "weight", Sum())
    assert np.allclose(numpy(layer.weight), before)
    assert [n for n, _ in layer.named_parameters()] == [
        "bias",
        "parametrizations.weight.original0",
        "parametrizations.weight.original1",
    ]
    with pytest.raises(ValueError, match="leave_parametrized=False"):
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
    parametrize.remove_parametrizations(layer, "weight")
    assert np.allclose(numpy(layer.weight), before)


def test_refused() -> None:
    class Flat(nn.Module):
        def forward(self, x: Any) -> Any:
            return x.flatten()

    layer = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="shape or dtype"):
        parametrize.register_parametrization(layer, "weight", Flat())
    with pytest.raises(ValueError, match="does not have a parameter"):
        parametrize.register_parametrization(layer, "nothing", Double())
    with pytest.raises(ValueError, match="does not have a parametrization"):
        parametrize.remove_parametrizations(layer, "weight")
    parametrize.register_parametrization(layer, "weight", Double())
    with pytest.raises(RuntimeError, match="right_inverse"):
        layer.weight = kiln.eye(2)
    with pytest.raises(RuntimeError, match="state_dict"):
        pickle.dumps(layer)
    assert np.array_equal(numpy(copy.deepcopy(layer).weight), numpy(layer.weight))


def test_trained_in_a_captured_step() -> None:
    kiln.manual_seed(0)
    plain, captured = nn.Linear(3, 3), None
    parametrizations.weight_norm(plain)
    captured = copy.deepcopy(plain)
    x = kiln.randn(4, 3)
    for layer, wrap in ((plain, lambda f: f), (captured, kiln.compile)):
        opt = kiln.optim.SGD(layer.parameters(), lr=0.1)

        def step(layer: Any = layer, opt: Any = opt) -> Any:
            opt.zero_grad()
            loss = layer(x).square().sum()
            loss.backward()
            opt.step()
            return loss

        run = wrap(step)
        for _ in range(3):
            run()
    assert np.allclose(numpy(plain.weight), numpy(captured.weight), atol=1e-5)


def test_spectral_norm_divides_by_the_largest_singular_value() -> None:
    kiln.manual_seed(0)
    for layer in (nn.Linear(4, 5), nn.Conv2d(2, 3, 3), nn.ConvTranspose2d(2, 3, 3)):
        parametrizations.spectral_norm(layer, n_power_iterations=20)
        layer.weight  # one more iteration
        rows = layer.weight.movedim(int(isinstance(layer, nn.ConvTranspose2d)), 0).flatten(1)
        assert abs(float(kiln.linalg.svdvals(rows)[0].detach()) - 1) < 1e-3
        u = layer.parametrizations.weight[0]._u.clone()
        layer.eval()
        layer.weight
        assert np.array_equal(numpy(layer.parametrizations.weight[0]._u), numpy(u))


@pytest.mark.parametrize("kind", [None, "matrix_exp", "cayley", "householder"])
@pytest.mark.parametrize("size", [(3, 3), (5, 3), (3, 5)])
@pytest.mark.parametrize("trivialization", [True, False])
def test_orthogonal_weights(kind: Any, size: tuple, trivialization: bool) -> None:
    kiln.manual_seed(0)
    layer = nn.Linear(*size, dtype=kiln.float64)
    parametrizations.orthogonal(layer, orthogonal_map=kind, use_trivialization=trivialization)
    columns = kiln.linalg.qr(kiln.randn(5, 3, dtype=kiln.float64))[0]
    q = (
        columns
        if size == (3, 5)
        else columns.mT
        if size == (5, 3)
        else kiln.linalg.qr(columns[:3])[0]
    )
    known = "householder" if kind is None and size != (3, 3) else kind
    if trivialization or known == "householder":
        layer.weight = q
        assert np.allclose(numpy(layer.weight), q.numpy(), atol=1e-10)
    else:
        with pytest.raises(NotImplementedError):
            layer.weight = q
    opt = kiln.optim.SGD(layer.parameters(), lr=0.05)
    for _ in range(2):
        opt.zero_grad()
        layer(kiln.ones(2, size[0], dtype=kiln.float64)).square().sum().backward()
        opt.step()
    w = numpy(layer.weight)
    gram = w @ w.T if w.shape[0] < w.shape[1] else w.T @ w
    assert np.allclose(gram, np.eye(len(gram)), atol=1e-9)


def test_older_forms_are_hooks() -> None:
    with pytest.warns(FutureWarning, match="parametrizations"):
        layer = nn.utils.weight_norm(nn.Linear(3, 4))
    before = numpy(layer.weight).copy()
    assert sorted(layer.state_dict()) == ["bias", "weight_g", "weight_v"]
    layer.weight_g.data.mul_(2)
    layer(kiln.ones(1, 3)).sum().backward()
    assert np.allclose(numpy(layer.weight), 2 * before, atol=1e-6)
    assert layer.weight_v.grad is not None
    new = parametrizations.weight_norm(nn.Linear(3, 4))
    new.load_state_dict(layer.state_dict())
    assert np.allclose(numpy(new.weight), 2 * before, atol=1e-6)
    with pytest.raises(RuntimeError, match="two"), pytest.warns(FutureWarning):
        nn.utils.weight_norm(layer)
    nn.utils.remove_weight_norm(layer)
    assert sorted(n for n, _ in layer.named_parameters()) == ["bias", "weight"]
    with pytest.raises(ValueError, match="not found"):
        nn.utils.remove_weight_norm(layer)
    layer = nn.utils.spectral_norm(nn.Linear(3, 4), n_power_iterations=30)
    layer(kiln.ones(1, 3)).sum().backward()
    assert abs(float(kiln.linalg.svdvals(layer.weight.detach())[0]) - 1) < 1e-3
    assert sorted(layer.state_dict()) == ["bias", "weight_orig", "weight_u", "weight_v"]
    nn.utils.remove_spectral_norm(layer)
    assert sorted(layer.state_dict()) == ["bias", "weight"]


def test_batch_norm_folds_into_the_layer_before_it() -> None:
    kiln.manual_seed(0)
    image, row = kiln.randn(2, 3, 6, 6), kiln.randn(4, 3)
    pairs = [
        (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), image, False),
        (nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, affine=False), image, False),
        (nn.ConvTranspose2d(3, 4, 3), nn.BatchNorm2d(4), image, True),
    ]
    for conv, bn, x, transposed in pairs:
        for _ in range(3):
            bn(conv(x))
        conv.eval(), bn.eval()
        fused = fusion.fuse_conv_bn_eval(conv, bn, transposed)
        assert np.allclose(numpy(fused(x)), numpy(bn(conv(x))), atol=1e-5)
    linear, bn = nn.Linear(3, 5), nn.BatchNorm1d(5)
    bn(linear(row))
    with pytest.raises(AssertionError):
        fusion.fuse_linear_bn_eval(linear, bn)
    linear.eval(), bn.eval()
    fused = nn.utils.fuse_linear_bn_eval(linear, bn)
    assert np.allclose(numpy(fused(row)), numpy(bn(linear(row))), atol=1e-5)


@pytest.mark.peers
@pytest.mark.parametrize(
    "name",
    ["weight_norm", "weight_norm_all", "spectral_norm", "matrix_exp", "cayley", "householder"],
)
def test_state_travels_from_torch(name: str) -> None:
    """The same names in the state dict; the same weight and gradients from it."""
    torch = pytest.importorskip("torch")
    made = []
    for library in (kiln, torch):
        z = library.nn.utils.parametrizations
        layer = (
            library.nn.Linear(3, 5).double()
            if library is torch
            else nn.Linear(3, 5, dtype=kiln.float64)
        )
        if name.startswith("weight_norm"):
            z.weight_norm(layer, dim=None if name.endswith("all") else 0)
        elif name == "spectral_norm":
            z.spectral_norm(layer)
        else:
            z.orthogonal(layer, orthogonal_map=name, use_trivialization=name != "householder")
        made.append(layer.eval())
    ours, theirs = made
    state = theirs.state_dict()
    assert list(ours.state_dict()) == list(state)
    ours.load_state_dict({k: kiln.tensor(v.numpy()) for k, v in state.items()})
    assert np.allclose(numpy(ours.weight), theirs.weight.detach().numpy(), atol=1e-10)
    for layer in made:
        layer.weight.sin().sum().backward()
    for (n, p), (_, q) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        if n != "bias":
            assert np.allclose(p.grad.numpy(), q.grad.numpy(), atol=1e-9), n
