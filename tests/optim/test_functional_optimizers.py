"""Functional optimizers: steps on lists of parameters, gradients and state."""

import numpy as np
import pytest

import kiln
from kiln.optim import _functional as functional

MOMENTS = {"beta1": 0.9, "beta2": 0.99, "lr": 0.1, "eps": 1e-8, "weight_decay": 0.1}
ADAM = {**MOMENTS, "amsgrad": True, "maximize": False}
# name: (lists of state after the gradients, options); "step" is a counter, "full" one value each, None a list of None
CASES = {
    "adam": (["zeros", "zeros", "zeros", "step"], ADAM),
    "adamw": (["zeros", "zeros", "empty", "step"], {**ADAM, "amsgrad": False, "maximize": True}),
    "nadam": (["zeros", "zeros", "one", "step"], {**MOMENTS, "momentum_decay": 4e-3}),
    "adamax": (["zeros", "zeros", "step"], MOMENTS),
    "radam": (["zeros", "zeros", "step"], {**MOMENTS, "decoupled_weight_decay": True}),
    "adadelta": (["zeros", "zeros", "step"], {"lr": 1.0, "rho": 0.9, "eps": 1e-6, "weight_decay": 0.1, "maximize": False}),
    "adagrad": (["zeros", "step"], {"lr": 0.1, "weight_decay": 0.0, "lr_decay": 0.1, "eps": 1e-10, "maximize": False}),
    "rmsprop": (["zeros", "zeros", "zeros", "step"], {
        "lr": 0.1, "alpha": 0.9, "eps": 1e-8, "weight_decay": 0.1, "momentum": 0.9, "centered": True}),
    "rprop": (["zeros", "full", "step"], {"step_size_min": 1e-6, "step_size_max": 50.0, "etaminus": 0.5, "etaplus": 1.2}),
    "asgd": (["zeros", "one", "full0", "step"], {"lambd": 1e-4, "lr": 0.1, "t0": 2.0, "alpha": 0.75, "weight_decay": 0.0}),
    "sgd": ([None], {
        "weight_decay": 0.1, "momentum": 0.9, "lr": 0.1, "dampening": 0.5, "nesterov": False, "maximize": False}),
    "adafactor": (["rows", "columns", None, "step"], {
        "d": 1.0, "lr": 0.1, "beta2_decay": -0.8, "weight_decay": 0.1, "eps1": 1e-7, "eps2": 1e-3, "maximize": False}),
    "muon": (["zeros"], {
        "lr": 0.1, "weight_decay": 0.1, "momentum": 0.9, "nesterov": True, "ns_coefficients": (3.4445, -4.775, 2.0315),
        "ns_steps": 5, "eps": 1e-7, "adjust_lr_fn": None, "has_complex": False}),
}  # fmt: skip


def run(lib, find, name: str) -> list:
    rng = np.random.default_rng(0)
    kinds, options = CASES[name]
    make = lambda a: lib.tensor(np.asarray(a, np.float32))  # noqa: E731
    params = [make(rng.normal(size=s)) for s in ((3, 4), (2, 5))]
    starts = {
        "zeros": lambda p: lib.zeros_like(p), "full": lambda p: lib.full_like(p, 0.1),
        "one": lambda p: make(1.0), "full0": lambda p: make(0.1), "step": lambda p: make(0.0),
        "rows": lambda p: lib.zeros(p.shape[0], 1), "columns": lambda p: lib.zeros(1, p.shape[1]),
        None: lambda p: None,
    }  # fmt: skip
    state = [[] if k == "empty" else [starts[k](p) for p in params] for k in kinds]
    for _ in range(3):
        grads = [make(rng.normal(size=tuple(p.shape))) for p in params]
        find(name)(params, grads, *state, **options)
    return [x.numpy() for part in (params, *state) for x in part if x is not None]


@pytest.mark.peers
@pytest.mark.parametrize("name", CASES)
def test_steps_equal_pytorchs(name):
    import importlib

    torch = pytest.importorskip("torch")
    module = {"adafactor": "_adafactor", "muon": "_muon"}.get(name, name)
    theirs = getattr(importlib.import_module(f"torch.optim.{module}"), name)
    tolerance = {"rtol": 2e-2, "atol": 2e-3} if name == "muon" else {"rtol": 2e-5, "atol": 1e-6}
    with torch.no_grad(), kiln.no_grad():
        ours = run(kiln, lambda n: getattr(functional, n), name)
        for mine, theirs_ in zip(ours, run(torch, lambda n: theirs, name), strict=True):
            np.testing.assert_allclose(mine, theirs_, **tolerance)


def test_a_functional_step_is_the_classs_step():
    p, q = kiln.nn.Parameter(kiln.ones(3)), kiln.ones(3)
    opt = kiln.optim.Adam([p], lr=0.1)
    moments = [[kiln.zeros(3)], [kiln.zeros(3)], [], [kiln.tensor(0.0)]]
    for g in (kiln.tensor([1.0, -2.0, 0.5]), kiln.tensor([0.1, 3.0, 0.0])):
        p.grad = g
        opt.step()
        functional.adam([q], [g.clone()], *moments, amsgrad=False, beta1=0.9, beta2=0.999, lr=0.1,
                        weight_decay=0, eps=1e-8, maximize=False)  # fmt: skip
    assert p.detach().equal(q)
    assert opt.state[p]["exp_avg"].equal(moments[0][0])


def test_steps_are_tensors_and_scaled_gradients_are_unscaled():
    options = {"amsgrad": False, "beta1": 0.9, "beta2": 0.999, "lr": 0.1, "weight_decay": 0, "eps": 1e-8, "maximize": False}  # fmt: skip
    p, g = kiln.ones(2), kiln.ones(2)
    with pytest.raises(RuntimeError, match="state_steps"):
        functional.adam([p], [g], [kiln.zeros(2)], [kiln.zeros(2)], [], [0], **options)
    moments = [kiln.zeros(2)], [kiln.zeros(2)], [], [kiln.tensor(0.0)]
    functional.adam(
        [p],
        [g],
        *moments,
        fused=True,
        grad_scale=kiln.tensor(4.0),
        found_inf=kiln.tensor(1.0),
        **options,
    )
    assert p.tolist() == [1.0, 1.0]  # what overflowed is no step
    functional.adam(
        [p],
        [g],
        *moments,
        fused=True,
        grad_scale=kiln.tensor(4.0),
        found_inf=kiln.tensor(0.0),
        **options,
    )
    assert g.tolist() == [0.25, 0.25]
    assert p[0] < 1.0


def test_sparse_adam_on_lists():
    table = kiln.nn.Embedding(4, 2, sparse=True)
    other = table.weight.detach().clone()
    opt = kiln.optim.SparseAdam([table.weight], lr=0.1)
    moments = kiln.zeros(4, 2), kiln.zeros(4, 2)
    for step in (1, 2):
        opt.zero_grad()
        table(kiln.tensor([1, 3])).sum().backward()
        opt.step()
        functional.sparse_adam([other], [table.weight.grad], [moments[0]], [moments[1]], [step],
                               eps=1e-8, beta1=0.9, beta2=0.999, lr=0.1, maximize=False)  # fmt: skip
    assert other.equal(table.weight.detach())
