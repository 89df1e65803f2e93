"""What optimizers offer beside their steps: hooks, swapping, line searches, averages."""

import copy

import numpy as np
import pytest

import kiln
import kiln.nn.functional as F
from kiln import nn, optim
from kiln.optim import optimizer, swa_utils


def param(*shape):
    return nn.Parameter(kiln.ones(*(shape or (3,))))


def test_hooks_of_all_optimizers():
    p = param()
    p.grad = kiln.ones(3)
    opt, log = optim.SGD([p], lr=0.1), []
    opt.register_step_pre_hook(lambda o, a, k: log.append("pre"))
    opt.register_step_post_hook(lambda o, a, k: log.append("post"))
    handles = [
        optimizer.register_optimizer_step_pre_hook(lambda o, a, k: log.append("all pre")),
        optimizer.register_optimizer_step_post_hook(lambda o, a, k: log.append("all post")),
    ]
    try:
        opt.step()
    finally:
        for h in handles:
            h.remove()
    opt.step()
    assert log == ["all pre", "pre", "post", "all post", "pre", "post"]


def test_a_global_hook_is_seen_by_captured_steps():
    p = param()
    opt = optim.SGD([p], lr=0.5)

    def step():
        opt.zero_grad()
        p.sum().backward()
        opt.step()

    run = kiln.compile(step)
    run()
    handle = optimizer.register_optimizer_step_post_hook(lambda o, a, k: p.detach().mul_(0))
    try:
        run()
    finally:
        handle.remove()
    assert p.tolist() == [0, 0, 0]
    run()
    assert p.tolist() == [-0.5, -0.5, -0.5]


def test_groups_are_the_dicts_that_were_given():
    groups = [{"params": [param()]}, {"params": param(), "lr": 1.0}]
    opt = optim.SGD(groups, lr=0.1)
    assert opt.param_groups[1] is groups[1]
    assert groups[0]["lr"] == 0.1


def test_names_of_parameters():
    m = nn.Linear(2, 2)
    opt = optim.SGD(m.named_parameters(), lr=0.1)
    assert opt.param_groups[0]["param_names"] == ["weight", "bias"]
    assert opt.state_dict()["param_groups"][0]["param_names"] == ["weight", "bias"]
    with pytest.raises(ValueError, match="cannot add param group without names"):
        opt.add_param_group({"params": [param()]})
    other = optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    other.load_state_dict(opt.state_dict())
    assert other.param_groups[0]["param_names"] == ["weight", "bias"]


def test_zeros_in_place_keep_the_gradient():
    p = param()
    p.grad = g = kiln.ones(3)
    optim.SGD([p], lr=0.1).zero_grad(set_to_none=False)
    assert p.grad is g
    assert g.tolist() == [0, 0, 0]


def rosenbrock(x):
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


@pytest.mark.parametrize("compiled", [False, True])
def test_line_search_finds_the_minimum(compiled):
    x = nn.Parameter(kiln.tensor([-1.2, 1.0], dtype=kiln.float64))
    opt = optim.LBFGS([x], line_search_fn="strong_wolfe", max_iter=60)

    def closure():
        opt.zero_grad()
        loss = rosenbrock(x)
        loss.backward()
        return loss

    first = opt.step(kiln.compile(closure) if compiled else closure)
    assert first.item() == pytest.approx(24.2)
    np.testing.assert_allclose(x.detach().numpy(), [1, 1], atol=1e-4)


def test_lbfgs_says_what_it_does_not_do():
    with pytest.raises(ValueError, match="parameter groups"):
        optim.LBFGS([{"params": [param()]}, {"params": [param()]}])
    p = param()
    opt = optim.LBFGS([p], line_search_fn="armijo")

    def closure():
        opt.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    with pytest.raises(RuntimeError, match="only 'strong_wolfe'"):
        opt.step(closure)
    with pytest.raises(kiln.CaptureError, match="compile the closure"):
        kiln.compile(lambda: opt.step(closure))()


def test_swapped_parameters_and_state():
    p, stand_in = param(), param()
    opt = optim.Adam([p], lr=0.1)
    p.grad = kiln.ones(3)
    opt.step()
    kept, state = p.tolist(), copy.deepcopy(opt.state_dict())
    with optim.swap_in_optimizer_params_and_state(opt, {"p": stand_in}, state):
        stand_in.grad = kiln.ones(3)
        opt.step()
        assert opt.state[stand_in]["step"].item() == 2
    assert p.tolist() == kept
    assert opt.state[p]["step"].item() == 1
    assert state["state"][0]["step"].item() == 2  # in place
    with pytest.raises(RuntimeError, match="options"):
        state["param_groups"][0].pop("lr")
        with optim.swap_in_optimizer_params_and_state(opt, {"p": stand_in}, state):
            pass


@pytest.mark.parametrize("compiled", [False, True])
def test_moving_averages(compiled):
    model = nn.Linear(2, 1, bias=False)
    mean = swa_utils.AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9))
    update = kiln.compile(mean.update_parameters) if compiled else mean.update_parameters
    want = None
    for i in range(4):
        with kiln.no_grad():
            model.weight.fill_(i)
        update(model)
        want = i if want is None else 0.9 * want + 0.1 * i
    np.testing.assert_allclose(mean.module.weight.detach().numpy(), want, rtol=1e-6)
    assert mean.n_averaged.item() == 4
    assert "module.weight" in mean.state_dict()


def test_equal_averages_and_statistics_of_batch_norm():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    mean = swa_utils.AveragedModel(model)
    seen = []
    for i in range(3):
        with kiln.no_grad():
            model[0].weight.fill_(i)
        seen.append(i)
        mean.update_parameters(model)
    np.testing.assert_allclose(mean.module[0].weight.detach().numpy(), np.mean(seen), rtol=1e-6)
    data = [(kiln.randn(8, 2), None) for _ in range(3)]
    mean.eval()
    swa_utils.update_bn(data, mean)
    x = kiln.cat([F.linear(d, mean.module[0].weight, mean.module[0].bias) for d, _ in data])
    np.testing.assert_allclose(
        mean.module[1].running_mean.numpy(), x.mean(0).detach().numpy(), atol=1e-5
    )
    assert (mean.training, mean.module[1].momentum) == (False, 0.1)


def test_rates_of_averaging():
    opt = optim.SGD([param()], lr=0.1)
    schedule = swa_utils.SWALR(opt, swa_lr=0.5, anneal_epochs=4, anneal_strategy="linear")
    rates = []
    for _ in range(6):
        opt.step()
        schedule.step()
        rates.append(round(opt.param_groups[0]["lr"], 6))
    assert rates == [0.2, 0.3, 0.4, 0.5, 0.5, 0.5]
    with pytest.raises(ValueError, match="anneal_strategy"):
        swa_utils.SWALR(opt, 0.5, anneal_strategy="steps")


def test_get_lr_outside_of_a_step_warns():
    schedule = optim.lr_scheduler.StepLR(optim.SGD([param()], lr=0.1), 2)
    with pytest.warns(UserWarning, match="get_last_lr"):
        schedule.get_lr()
    schedule.optimizer.step()
    with pytest.warns(UserWarning, match="deprecated"):
        schedule.step(3)
    assert issubclass(optim.lr_scheduler._LRScheduler, optim.lr_scheduler.LRScheduler)
