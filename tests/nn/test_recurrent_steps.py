"""Small recurrent layers step on plain arrays, and give what the ops of each step give, gradients of gradients too."""

import numpy as np
import pytest

import kiln
from kiln.nn import _recurrent
from kiln.nn._steps import KINDS

GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}


def layer(kind, length, bias, seed=0):
    """The arguments of `recur` as leaves: inputs, states and weights in float64."""
    r = np.random.default_rng(seed)

    def leaf(*shape):
        return kiln.from_numpy(r.standard_normal(shape) * 0.7).requires_grad_()

    rows = GATES[kind] * 4
    state = tuple(leaf(2, 4) for _ in range(1 + (kind == "LSTM")))
    biases = (leaf(rows), leaf(rows)) if bias else (None, None)
    return leaf(length, 2, 3), state, (leaf(rows, 3), leaf(rows, 4), *biases, None)


def results(kind, reverse, given, used):
    """Outputs, gradients, and gradients of the gradients' squares, where some of the results are used."""
    x, state, weights = given
    last, ys = _recurrent.recur(kind, x, state, weights, reverse, None)
    outs = [o for o, u in zip((ys, *last), used, strict=False) if u]
    leaves = [t for t in (x, *state, *weights) if t is not None]
    loss = sum((o * o * (i + 1)).sum() for i, o in enumerate(outs))
    first = kiln.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True)
    again = kiln.autograd.grad(loss, leaves, create_graph=True, allow_unused=True)
    total = sum((g * g).sum() for g in again if g is not None)
    second = kiln.autograd.grad(total, leaves, allow_unused=True)
    return [ys, *last, *first, *again, *second]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reverse", [False, True])
def test_steps_are_the_ops(kind, reverse, monkeypatch):
    for length, bias, used in ((1, True, (1, 1, 1)), (5, True, (1, 0, 0)), (3, False, (0, 1, 1)), (2, True, (0, 1, 0)), (2, True, (1, 1, 1))):  # fmt: skip
        given = layer(kind, length, bias)
        brief = results(kind, reverse, given, used)
        with monkeypatch.context() as m:
            m.setattr(_recurrent, "_brief", lambda given: False)
            steps = results(kind, reverse, given, used)
        for a, b in zip(brief, steps, strict=True):
            if a is None or b is None:
                assert a is None or not a.any()
                assert b is None or not b.any()
            else:
                np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-9, atol=1e-10)  # fmt: skip


def test_results_may_be_written_to():
    rnn = kiln.nn.LSTM(3, 4)
    y, (h, c) = rnn(kiln.randn(5, 2, 3))
    loss = (y * 1).sum() + (c * 1).sum()
    with kiln.no_grad():
        y.zero_()
        h.zero_()
        c.zero_()
    loss.backward()
    assert rnn.weight_hh_l0.grad.abs().sum() > 0


def test_a_graph_that_is_kept_gives_the_same_gradients_twice():
    for rnn in (kiln.nn.LSTM(3, 4), kiln.nn.GRU(3, 4), kiln.nn.RNN(3, 4)):
        y = rnn(kiln.randn(5, 2, 3))[0].sum()
        y.backward(retain_graph=True)
        once = rnn.weight_hh_l0.grad.clone()
        rnn.zero_grad()
        y.backward()
        assert kiln.equal(rnn.weight_hh_l0.grad, once)


@pytest.mark.parametrize("off", [kiln.no_grad, kiln.inference_mode])
def test_blocks_give_nothing_for_backward_where_there_is_none(off, monkeypatch):
    layer, x = kiln.nn.GRU(8, 32), kiln.randn(20, 16, 8)
    expected = layer(x)[0].detach()
    monkeypatch.setattr(_recurrent.Block, "forward", None)
    with off():
        assert kiln.equal(layer(x)[0], expected)
