"""A captured training step does what the eager one does, and follows what changes between calls."""

import numpy as np
import pytest
from tests.turns import in_turn

import kiln
import kiln.nn.functional as F
from kiln import nn, optim
from kiln.errors import CaptureError

S = optim.lr_scheduler
CASES = {
    "sgd": (lambda p: optim.SGD(p, lr=0.1), lambda o: S.StepLR(o, 2)),
    "momentum": (
        lambda p: optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
        lambda o: S.CyclicLR(o, 0.01, 0.2, 3),
    ),
    "dampening": (
        lambda p: optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.5),
        lambda o: S.ExponentialLR(o, 0.9),
    ),
    "adam": (lambda p: optim.Adam(p, lr=0.01), lambda o: S.OneCycleLR(o, 0.1, 20)),
    "adamw": (lambda p: optim.AdamW(p, amsgrad=True), lambda o: S.CosineAnnealingLR(o, 3)),
    "radam": (lambda p: optim.RAdam(p, lr=0.05), lambda o: S.PolynomialLR(o, 9)),
    "rprop": (lambda p: optim.Rprop(p, lr=0.01), lambda o: S.ExponentialLR(o, 0.9)),
    "rmsprop": (
        lambda p: optim.RMSprop(p, momentum=0.9, centered=True),
        lambda o: S.LinearLR(o, 0.1, 1.0, 4),
    ),
}


def train(case, compiled, steps=6):
    make, schedule = CASES[case]
    kiln.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    opt = make(model.parameters())
    scheduler = schedule(opt)

    def step(x, y):
        opt.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        opt.step()
        return loss

    run = kiln.compile(step) if compiled else step
    r = np.random.default_rng(0)
    losses = []
    for _ in range(steps):
        x = kiln.tensor(r.normal(size=(16, 4)).astype(np.float32))
        losses.append(run(x, kiln.tensor(r.integers(0, 3, 16))).item())
        scheduler.step()
    return losses, [p.detach().numpy() for p in model.parameters()], opt, run


@in_turn(
    "case",
    [c for c in CASES if c not in ("sgd", "adam", "rmsprop")],
    always=["sgd", "adam", "rmsprop"],
)
def test_captured_steps(case):
    losses, params, _, _ = train(case, False)
    losses2, params2, opt, run = train(case, True)
    np.testing.assert_allclose(losses, losses2, rtol=1e-5)
    for a, b in zip(params, params2, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert run.captures == 1
    for state in opt.state.values():
        assert state.get("step", kiln.tensor(6.0)).item() == 6


def test_modules_that_change_are_captured_again():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    run = kiln.compile(lambda x: model(x))
    x = kiln.randn(8, 3)
    for mode in (True, False, True):
        model.train(mode)
        before = {k: v.clone() for k, v in model.state_dict().items()}
        got = run(x)
        counted = model[1].num_batches_tracked.item()
        after = {k: v.clone() for k, v in model.state_dict().items()}
        model.load_state_dict(before)
        np.testing.assert_allclose(
            got.detach().numpy(), model(x).detach().numpy(), rtol=1e-4, atol=1e-5
        )
        assert model[1].num_batches_tracked.item() == counted
        for k, v in model.state_dict().items():
            np.testing.assert_allclose(v.numpy(), after[k].numpy(), rtol=1e-4, atol=1e-6)
    handle = model.register_forward_hook(lambda m, a, out: out * 0)
    assert run(x).abs().sum().item() == 0
    handle.remove()
    assert run(x).abs().sum().item() > 0
    model[0].weight = nn.Parameter(kiln.zeros(3, 3))
    model.eval()
    model[0].bias = None
    want = model(kiln.zeros(8, 3))
    np.testing.assert_allclose(run(x).detach().numpy(), want.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_a_scheduler_inside_a_captured_function_is_refused():
    p = nn.Parameter(kiln.ones(2))
    opt = optim.SGD([p], lr=0.1)
    scheduler = S.StepLR(opt, 1)

    def step():
        opt.zero_grad()
        (p * p).sum().backward()
        opt.step()
        scheduler.step()

    with pytest.raises(kiln.CaptureError, match="scheduler"):
        kiln.compile(step)()


def test_loaded_state_is_used():
    p = nn.Parameter(kiln.ones(2))
    opt = optim.Adam([p], lr=0.1)

    def step():
        opt.zero_grad()
        (p * p).sum().backward()
        opt.step()

    run = kiln.compile(step)
    run()
    saved = opt.state_dict()
    saved["state"][0]["step"] = kiln.tensor(10.0)
    opt.load_state_dict(saved)
    run()
    assert opt.state[p]["step"].item() == 11


class Running(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", kiln.zeros(3))
        self.last = None

    def forward(self, x):
        before = self.mean
        self.mean = self.mean * 0.5 + x.mean(0) * 0.5
        self.last = x * 2
        return x - self.mean + before


def test_attributes_that_forward_rebinds():
    ours, theirs = Running(), Running()
    run = kiln.compile(lambda x: ours(x))
    for i in range(5):
        x = kiln.randn(2, 3) + i
        np.testing.assert_allclose(run(x).numpy(), theirs(x).numpy(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(ours.mean.numpy(), theirs.mean.numpy(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(ours.last.numpy(), theirs.last.numpy(), rtol=1e-5, atol=1e-6)
    assert run.captures == 2  # the first call made `last`


def test_a_failed_capture_leaves_attributes_as_they_were():
    m = Running()
    mean = m.mean

    def fail(x):
        m(x)
        raise KeyError("later")

    with pytest.raises(KeyError):
        kiln.compile(fail)(kiln.ones(2, 3))
    assert m.mean is mean
    assert m.last is None


def test_a_capture_that_fails_leaves_no_optimizer_state():
    p = nn.Parameter(kiln.ones(2))
    opt = kiln.optim.Adam([p])

    def step(fail):
        opt.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        opt.step()
        return loss.item() if fail else loss

    run = kiln.compile(step)
    with pytest.raises(CaptureError):
        run(True)
    assert not opt.state
    assert p.grad is None
    assert (p == 1).all()
    run(False)
    assert opt.state[p]["step"] == 1
