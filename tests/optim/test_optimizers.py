"""Trajectories and schedules equal PyTorch's."""

import copy
import itertools

import numpy as np
import pytest

import kiln
from kiln import nn, optim

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.peers

CASES = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "maximize": True}),
    ("Adam", {"lr": 0.05}),
    ("Adam", {"lr": 0.05, "weight_decay": 0.1, "amsgrad": True}),
    ("Adam", {"lr": 0.05, "betas": (0.8, 0.99), "eps": 1e-6, "maximize": True}),
    ("AdamW", {"lr": 0.05}),
    ("AdamW", {"lr": 0.05, "amsgrad": True, "weight_decay": 0.2}),
    ("NAdam", {"lr": 0.05, "weight_decay": 0.1}),
    ("NAdam", {"lr": 0.05, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("Adamax", {"lr": 0.05, "weight_decay": 0.1}),
    ("RMSprop", {"lr": 0.05}),
    ("RMSprop", {"lr": 0.05, "momentum": 0.9, "centered": True, "weight_decay": 0.1}),
    (
        "Adagrad",
        {"lr": 0.05, "lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.3},
    ),
    ("RAdam", {"lr": 0.05, "weight_decay": 0.1, "betas": (0.9, 0.99)}),
    ("RAdam", {"lr": 0.05, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("Rprop", {"lr": 0.05}),
    ("ASGD", {"lr": 0.05, "weight_decay": 0.1, "t0": 5.0, "lambd": 0.01}),
    ("Adadelta", {"lr": 1.0, "rho": 0.8, "weight_decay": 0.1}),
]


def pair(dtype=np.float32):
    r = np.random.default_rng(0)
    start = [np.asarray(r.normal(size=s), dtype) for s in ((3, 4), (4,), ())]
    ours = [nn.Parameter(kiln.tensor(a)) for a in start]
    theirs = [torch.nn.Parameter(torch.tensor(a)) for a in start]
    return ours, theirs


def descend(params, opt, lib, steps, start=0):
    for i in range(start, start + steps):
        opt.zero_grad()
        loss = sum(((p * (i % 3 + 1) - 0.5) ** 2).sum() + p.sin().sum() for p in params)
        loss.backward()
        opt.step()


@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_trajectory(name, options, dtype):
    ours, theirs = pair(dtype)
    # NAdam's running product is float32 in both, whatever the parameters are
    scale = 1 if dtype is np.float32 or name == "NAdam" else 1e-5
    a, b = getattr(optim, name)(ours, **options), getattr(torch.optim, name)(theirs, **options)
    descend(ours, a, kiln, 12)
    descend(theirs, b, torch, 12)
    for x, y in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(
            x.detach().numpy(), y.detach().numpy(), rtol=2e-5 * scale, atol=2e-6 * scale
        )
    mine, due = a.state_dict(), b.state_dict()
    assert list(mine["param_groups"][0]) == list(due["param_groups"][0])
    assert mine["param_groups"][0]["params"] == due["param_groups"][0]["params"]
    assert mine["state"].keys() == due["state"].keys()
    for i in mine["state"]:
        kept = {k: v for k, v in due["state"][i].items() if v is not None}
        assert mine["state"][i].keys() == kept.keys()
        for k, v in kept.items():
            got = mine["state"][i][k]
            np.testing.assert_allclose(got.numpy(), v.detach().numpy(), rtol=2e-4, atol=2e-5)
            assert str(got.dtype).split(".")[-1] == str(v.dtype).split(".")[-1]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_resume_from_state_dict(name, options):
    straight, _ = pair()
    opt = getattr(optim, name)(straight, **options)
    descend(straight, opt, kiln, 4)
    resumed = [nn.Parameter(p.detach().clone()) for p in straight]
    again = getattr(optim, name)(resumed, **options)
    again.load_state_dict(copy.deepcopy(opt.state_dict()))
    descend(straight, opt, kiln, 4, 4)
    descend(resumed, again, kiln, 4, 4)
    for x, y in zip(straight, resumed, strict=True):
        np.testing.assert_array_equal(x.detach().numpy(), y.detach().numpy())


SCHEDULES = {
    "step": lambda s, o: s.StepLR(o, 3, 0.5),
    "multistep": lambda s, o: s.MultiStepLR(o, [2, 5, 5], 0.3),
    "exponential": lambda s, o: s.ExponentialLR(o, 0.9),
    "lambda": lambda s, o: s.LambdaLR(o, lambda e: 0.95**e),
    "multiplicative": lambda s, o: s.MultiplicativeLR(o, lambda e: 0.9),
    "cosine": lambda s, o: s.CosineAnnealingLR(o, 5, 0.01),
    "restarts": lambda s, o: s.CosineAnnealingWarmRestarts(o, 3, 2, 0.001),
    "linear": lambda s, o: s.LinearLR(o, 0.25, 0.9, 4),
    "constant": lambda s, o: s.ConstantLR(o, 0.4, 3),
    "polynomial": lambda s, o: s.PolynomialLR(o, 8, 2.0),
    "onecycle": lambda s, o: s.OneCycleLR(o, 0.5, total_steps=30),
    "onecycle3": lambda s, o: s.OneCycleLR(
        o, 0.5, epochs=3, steps_per_epoch=10, three_phase=True, anneal_strategy="linear"
    ),
    "cyclic": lambda s, o: s.CyclicLR(o, 0.01, 0.2, 4, 3, "triangular2"),
    "cyclic_exp": lambda s, o: s.CyclicLR(o, 0.01, 0.2, 4, mode="exp_range", gamma=0.98),
    "sequential": lambda s, o: s.SequentialLR(
        o, [s.ConstantLR(o, 0.1, 3), s.LinearLR(o, 0.5, 1.0, 4), s.ExponentialLR(o, 0.9)], [3, 8]
    ),
    "chained": lambda s, o: s.ChainedScheduler([s.ConstantLR(o, 0.1, 3), s.ExponentialLR(o, 0.9)]),
    "warmup_restarts": lambda s, o: s.SequentialLR(
        o, [s.LinearLR(o, 0.1, 1.0, 4), s.CosineAnnealingWarmRestarts(o, 3)], [4]
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("base", ["SGD", "Adam"])
def test_schedule(name, base):
    options = {"lr": 0.1, **({"momentum": 0.9} if base == "SGD" else {})}
    found = []
    for lib, params in zip((optim, torch.optim), pair(), strict=True):
        opt = getattr(lib, base)(
            [{"params": params[:1]}, {"params": params[1:], "lr": 0.3}], **options
        )
        scheduler = SCHEDULES[name](lib.lr_scheduler, opt)
        seen = [[(g["lr"], g.get("momentum"), g.get("betas")) for g in opt.param_groups]]
        for _ in range(20):
            opt.step()
            scheduler.step()
            seen.append([(g["lr"], g.get("momentum"), g.get("betas")) for g in opt.param_groups])
        found.append(
            (seen, scheduler.get_last_lr(), scheduler.last_epoch if name != "chained" else 0)
        )
    assert found[0][1:] == found[1][1:]
    assert found[0] == found[1]


def test_plateau():
    found = []
    for lib, params in zip((optim, torch.optim), pair(), strict=True):
        opt = lib.SGD(params, lr=1.0)
        scheduler = lib.lr_scheduler.ReduceLROnPlateau(
            opt, patience=1, cooldown=2, factor=0.5, min_lr=0.1
        )
        out = []
        for loss in itertools.chain([3, 2, 2, 2, 2, 1], [1] * 12):
            scheduler.step(loss)
            out.append((opt.param_groups[0]["lr"], scheduler.num_bad_epochs, scheduler.in_cooldown))
        found.append(out)
    assert found[0] == found[1]


def test_repr():
    ours, theirs = pair()
    assert repr(optim.SGD(ours, lr=0.1)) == repr(torch.optim.SGD(theirs, lr=0.1))


def test_what_reduces_the_rate_on_a_plateau_may_be_replaced():
    opt = optim.SGD([nn.Parameter(kiln.ones(1))], lr=1.0)
    schedule, seen = optim.lr_scheduler.ReduceLROnPlateau(opt, patience=0), []
    schedule._reduce_lr = seen.append
    for loss in (1.0, 2.0, 3.0):
        schedule.step(loss)
    assert seen == [2, 3]
    assert opt.param_groups[0]["lr"] == 1.0
