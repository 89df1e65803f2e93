"""Groups, state and errors of optimizers."""

import copy
import pickle

import pytest

import kiln
from kiln import nn, optim


def params(n=2):
    return [nn.Parameter(kiln.ones(3)) for _ in range(n)]


def test_groups_and_their_options():
    a, b, c = params(3)
    opt = optim.SGD([{"params": [a]}, {"params": b, "lr": 0.5}], lr=0.1, momentum=0.9)
    opt.add_param_group({"params": [c], "momentum": 0})
    assert [g["lr"] for g in opt.param_groups] == [0.1, 0.5, 0.1]
    assert [g["momentum"] for g in opt.param_groups] == [0.9, 0.9, 0]
    for p in (a, b, c):
        p.grad = kiln.ones(3)
    opt.step()
    assert (round(a[0].item(), 6), b[0].item(), round(c[0].item(), 6)) == (0.9, 0.5, 0.9)
    assert c not in opt.state
    assert opt.state[a]["momentum_buffer"].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: optim.SGD([], lr=0.1), ValueError),
        (lambda: optim.SGD(kiln.ones(2), lr=0.1), TypeError),
        (lambda: optim.SGD([1], lr=0.1), TypeError),
        (lambda: optim.SGD([nn.Parameter(kiln.ones(1)) * 2], lr=0.1), ValueError),
        (lambda: optim.SGD([{"params": set(params())}], lr=0.1), TypeError),
        (lambda: optim.SGD(params(1) * 2, lr=0.1), UserWarning),
        (lambda: optim.SGD(params(), lr=-1), ValueError),
        (lambda: optim.SGD(params(), lr=0.1, nesterov=True), ValueError),
        (lambda: optim.Adam(params(), betas=(1.0, 0.9)), ValueError),
        (lambda: optim.Adam(params()).add_param_group([1]), TypeError),
        (lambda: optim.lr_scheduler.StepLR(3, 1), TypeError),
        (lambda: optim.lr_scheduler.OneCycleLR(optim.Adagrad(params()), 0.1, 10), ValueError),
        (lambda: optim.lr_scheduler.StepLR(optim.SGD(params(), 0.1), 1, last_epoch=3), KeyError),
    ],
)
def test_bad_arguments(make, error):
    with pytest.raises(error):
        make()


def test_a_parameter_is_in_one_group_only():
    (a,) = params(1)
    opt = optim.SGD([a], lr=0.1)
    with pytest.raises(ValueError, match="more than one parameter group"):
        opt.add_param_group({"params": [a]})
    assert len(opt.param_groups) == 1


def test_loading_state_of_another_shape_changes_nothing():
    opt = optim.Adam(params(2), lr=0.3)
    before = opt.param_groups
    with pytest.raises(ValueError, match="doesn't match the size"):
        opt.load_state_dict(optim.Adam(params(1)).state_dict())
    other = optim.Adam([{"params": params(1)}, {"params": params(1)}])
    with pytest.raises(ValueError, match="different number of parameter groups"):
        opt.load_state_dict(other.state_dict())
    assert opt.param_groups is before


def test_zero_grad():
    a, b = params()
    opt = optim.SGD([a, b], lr=0.1)
    a.grad = kiln.ones(3)
    opt.zero_grad(set_to_none=False)
    assert a.grad.tolist() == [0, 0, 0]
    assert b.grad is None
    opt.zero_grad()
    assert a.grad is None


def test_closure_runs_with_gradients():
    (p,) = params(1)
    opt = optim.SGD([p], lr=0.1)

    def closure():
        opt.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    with kiln.no_grad():
        assert opt.step(closure).item() == 3
    assert round(p[0].item(), 6) == 0.8


def test_hooks():
    (p,) = params(1)
    p.grad = kiln.ones(3)
    opt = optim.SGD([p], lr=0.1)
    log = []
    opt.register_step_pre_hook(lambda o, a, k: log.append("pre"))
    handle = opt.register_step_post_hook(lambda o, a, k: log.append("post"))
    opt.register_state_dict_post_hook(lambda o, d: {**d, "extra": 1})
    opt.step()
    handle.remove()
    opt.step()
    assert log == ["pre", "post", "pre"]
    assert opt.state_dict()["extra"] == 1


def test_an_optimizer_of_ones_own():
    class Sign(optim.Optimizer):
        def __init__(self, params, lr):
            super().__init__(params, {"lr": lr})

        @kiln.no_grad()
        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        p.sub_(p.grad.sign(), alpha=group["lr"])

    (p,) = params(1)
    p.grad = kiln.tensor([1.0, -2.0, 0.0])
    opt = Sign([p], 0.5)
    seen = []
    opt.register_step_post_hook(lambda *a: seen.append(1))
    scheduler = optim.lr_scheduler.StepLR(opt, 1, 0.5)
    opt.step()
    scheduler.step()
    assert p.tolist() == [0.5, 1.5, 1.0]
    assert seen == [1]
    assert opt.param_groups[0]["lr"] == 0.25


def test_a_tensor_as_learning_rate():
    (p,) = params(1)
    p.grad = kiln.ones(3)
    lr = kiln.tensor(0.5)
    for opt in (optim.SGD([p], lr=lr), optim.Adam([p], lr=lr)):
        scheduler = optim.lr_scheduler.ExponentialLR(opt, 0.5)
        opt.step()
        scheduler.step()
        assert opt.param_groups[0]["lr"] is lr
    assert lr.item() == 0.125


def test_half_precision_state_follows_the_parameter():
    p = nn.Parameter(kiln.ones(3, dtype=kiln.bfloat16))
    p.grad = kiln.ones(3, dtype=kiln.bfloat16)
    opt = optim.Adam([p])
    opt.step()
    assert p.dtype is kiln.bfloat16
    assert opt.state[p]["exp_avg"].dtype is kiln.bfloat16
    assert opt.state[p]["step"].dtype is kiln.float32
    wide = nn.Parameter(kiln.ones(3, dtype=kiln.float64))
    again = optim.Adam([wide])
    again.load_state_dict(opt.state_dict())
    assert again.state[wide]["exp_avg"].dtype is kiln.float64
    assert again.state[wide]["step"].dtype is kiln.float32


def test_copies_and_pickles():
    ps = params(1)
    ps[0].grad = kiln.ones(3)
    opt = optim.Adam(ps)
    opt.step()
    for twin in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        (q,) = twin.param_groups[0]["params"]
        assert twin.state[q]["step"].item() == 1
        q.grad = kiln.ones(3)
        twin.step()
        assert opt.state[ps[0]]["step"].item() == 1


def test_scheduler_before_optimizer_warns():
    opt = optim.SGD(params(1), lr=0.1)
    scheduler = optim.lr_scheduler.StepLR(opt, 1)
    with pytest.warns(UserWarning, match="before `optimizer.step"):
        scheduler.step()


def test_schedulers_resume_from_their_state():
    opt = optim.SGD(params(1), lr=0.1)
    opt.step()
    make = lambda o: optim.lr_scheduler.SequentialLR(  # noqa: E731
        o, [optim.lr_scheduler.LinearLR(o, 0.1), optim.lr_scheduler.CosineAnnealingLR(o, 5)], [3]
    )
    a = make(opt)
    for _ in range(5):
        a.step()
    opt2 = optim.SGD(params(1), lr=0.1)
    b = make(opt2)
    opt2.load_state_dict(opt.state_dict())
    b.load_state_dict(a.state_dict())
    opt2.step()
    for _ in range(4):
        a.step(), b.step()
        assert a.get_last_lr() == b.get_last_lr()


def test_facts_of_a_captured_step():
    (p,) = params(1)
    opt = optim.Adam([p], lr=0.1, weight_decay=0.1)
    facts = opt.__capture_facts__()
    opt.param_groups[0]["lr"] = 0.01
    opt.param_groups[0]["weight_decay"] = 0.2
    opt.param_groups[0]["betas"] = (0.5, 0.6)
    assert opt.__capture_facts__() == facts
    for key, value in (("weight_decay", 0), ("amsgrad", True), ("maximize", True)):
        old = opt.param_groups[0][key]
        opt.param_groups[0][key] = value
        assert opt.__capture_facts__() != facts
        opt.param_groups[0][key] = old
    opt.load_state_dict(opt.state_dict())
    assert opt.__capture_facts__() != facts


def test_an_optimizer_may_wrap_another_without_the_constructor():
    class Wrapped(optim.Optimizer):
        def __init__(self, inner):
            self.inner = inner

        @property
        def param_groups(self):
            return self.inner.param_groups

        def step(self, closure=None):
            return self.inner.step(closure)

    (p,) = params(1)
    before = p.detach().clone()
    p.sum().backward()
    Wrapped(optim.SGD([p], lr=0.1)).step()
    assert kiln.allclose(p, before - 0.1)
