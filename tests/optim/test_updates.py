"""A parameter's update as one Program beside its ops one by one, in whatever order tensors lie."""

import numpy as np
import pytest

import kiln
from kiln import optim
from kiln.config import context

CASES = [
    (optim.SGD, {"momentum": 0.9, "weight_decay": 0.1, "nesterov": True}),
    (optim.Adam, {"amsgrad": True, "weight_decay": 0.1, "maximize": True}),
    (optim.AdamW, {}),
    (optim.RMSprop, {"momentum": 0.5, "centered": True}),
    (optim.Adadelta, {}),
]


def params(dtype):
    """Parameters and gradients, some of which do not lie in row-major order."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        return kiln.tensor(rng.standard_normal(shape), dtype=dtype)

    images = kiln.channels_last
    ps = [draw(), draw(3), draw(8, 6), draw(2, 3, 4, 5).contiguous(memory_format=images), draw(0)]
    for p in ps:
        p.requires_grad_()
        p.grad = draw(*p.shape)
    ps[2].grad = draw(6, 8).t()
    return ps


@pytest.mark.parametrize("dtype", [kiln.float32, kiln.float64])
@pytest.mark.parametrize(("cls", "options"), CASES)
def test_like_op_by_op(cls, options, dtype):
    runs = []
    for eager in ("cpu", "reference"):
        ps = params(dtype)
        opt = cls(ps, lr=0.1, **options)
        memory, before = [p.data_ptr() for p in ps], [p._version for p in ps]
        with context(eager=eager):
            for lr in (0.1, 0.1, 0.03):
                opt.param_groups[0]["lr"] = lr
                opt.step()
        assert [p.data_ptr() for p in ps] == memory
        assert all(p._version > v for p, v in zip(ps, before, strict=True) if p.numel())
        runs.append((ps, opt.state_dict()["state"]))
    tolerance = 1e-5 if dtype is kiln.float32 else 1e-12
    for a, b in zip(*[r[0] for r in runs], strict=True):
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), tolerance, tolerance)
    for k, held in runs[0][1].items():
        for name, value in held.items():
            other = runs[1][1][k][name]
            np.testing.assert_allclose(value.numpy(), other.numpy(), tolerance, tolerance)


def test_gradient_in_the_parameters_memory():
    p = kiln.ones(4, requires_grad=True)
    p.grad = p.data.flip(0).flip(0)
    p.grad = p.data[:]  # the same memory
    optim.SGD([p], lr=0.5, momentum=0.9).step()
    assert p.tolist() == [0.5] * 4


def test_an_optimizer_of_ones_own_runs_its_update():
    class Halving(optim.Adam):
        def update(self, p, g, state, group, scalars):
            p.mul_(0.5)

    p = kiln.ones(4, requires_grad=True)
    p.grad = kiln.ones(4)
    Halving([p]).step()
    assert p.tolist() == [0.5] * 4


def test_kept_results_follow_a_step():
    p = kiln.ones(64, 64, requires_grad=True)

    @kiln.compile
    def f(x):
        return x @ p

    x = kiln.eye(64)
    with kiln.no_grad():
        f(x), f(x)
        p.grad = kiln.ones(64, 64)
        optim.SGD([p], lr=0.5).step()
        assert f(x).unique().tolist() == [0.5]
