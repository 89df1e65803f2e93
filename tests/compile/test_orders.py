"""Memory orders: what lies channels-last, and that nothing a user sees depends on it."""

import numpy as np
import pytest
from tests.turns import in_turn

import kiln
import kiln.nn.functional as F
from kiln import nn
from kiln.compile import orders
from kiln.config import context
from kiln.errors import KilnValueError
from kiln.graph import Graph, input_node, make

CONV = ((1, 1), (1, 1), (1, 1), 1)


def rng():
    return np.random.default_rng(0)


def convolution(x, c_out):
    return make(
        "convolution", (x, input_node(90 + c_out, (c_out, x.shape[1], 3, 3), x.dtype), None, *CONV)
    )


def image(i, *shape):
    return input_node(i, shape, kiln.float32)


def last(outputs, inputs, prefers=lambda n: 1, fixed=()):
    return orders.channels_last(Graph(inputs, outputs), prefers, fixed)


def test_an_order_spreads_through_everything_elementwise_and_pooled():
    x = image(0, 2, 3, 8, 8)
    y = convolution(x, 4)
    total = make("sum", (y, (0, 2, 3), True))
    h = make("exp", (make("sub", (y, total, 1)),))
    w = make("windows", (make("pad", (h, (0, 0, 1, 1), (0, 0, 1, 1), 0.0)), (3, 3), (2, 2), (1, 1)))
    p = make("amax", (make("reshape", (w, (2, 4, 4, 4, 9))), -1, False))
    flat = make("reshape", (p, (2, 64)))
    out = make("tanh", (flat,))
    found = last([out], [x])
    assert {y, h, w, p} <= found
    assert not {x, flat, out} & found


def test_outputs_and_fixed_nodes_keep_their_order():
    x = image(0, 2, 3, 8, 8)
    y = convolution(x, 4)
    a, b = make("exp", (y,)), make("sin", (y,))
    c = make("sum", (a, (2, 3), False))
    found = last([b, c], [x], fixed=[a])
    assert y in found
    assert not {a, b} & found


def test_convolutions_vote():
    x = image(0, 2, 3, 8, 8)
    y = convolution(x, 4)
    z = convolution(make("exp", (y,)), 5)
    out = make("sum", (make("exp", (z,)), (2, 3), False))
    assert y in last([out], [x], lambda n: 3 if n is z else -1)
    assert y not in last([out], [x], lambda n: -3 if n is z else 1)
    assert z in last([out], [x], lambda n: 3 if n is z else -1)


def test_nothing_moves_without_convolutions():
    x = image(0, 2, 3, 8, 8)
    y = make("exp", (make("sin", (x,)),))
    assert not last([make("sum", (y, None, False))], [x])


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 4, 5), (2, 1, 4, 1), (1, 3, 2, 4, 5)])
def test_strides_are_those_of_the_moved_array(shape):
    n = image(0, *shape)
    moved = (shape[0], *shape[2:], shape[1])
    want = np.moveaxis(np.empty(moved, np.int8), -1, 1)
    strides = orders.channels_inside(n)
    assert all(a == b for a, b, s in zip(strides, want.strides, shape, strict=True) if s > 1)


def test_an_unknown_layout_is_refused():
    with context(layout="sideways"), pytest.raises(KilnValueError, match="no such layout"):
        kiln.compile(lambda x: x + 1)(kiln.ones(3))


def network():
    kiln.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(8, 8, 3, groups=8), nn.GELU(), nn.AvgPool2d(2, 1),
        nn.Conv2d(8, 16, 1, stride=2, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.LazyLinear(5),
    )  # fmt: skip


def train(threads=1, steps=3, **flags):
    """Losses and parameters after a few steps."""
    r = rng()
    x = kiln.tensor(r.standard_normal((4, 3, 19, 18)).astype(np.float32))
    y = kiln.tensor(r.integers(0, 5, 4))
    m = network()
    m(x)
    opt = kiln.optim.SGD(m.parameters(), lr=0.05, momentum=0.9)

    def step():
        opt.zero_grad()
        loss = F.cross_entropy(m(x), y)
        loss.backward()
        opt.step()
        return loss.detach()

    before = kiln.get_num_threads()
    kiln.set_num_threads(threads)
    try:
        with context(**flags):
            run = kiln.compile(step)
            losses = [run().numpy() for _ in range(steps)]
    finally:
        kiln.set_num_threads(before)
    return [
        *losses,
        *(p.detach().numpy().copy() for p in m.parameters()),
        *(b.numpy().copy() for b in m.buffers()),
    ]


@in_turn("flags", [{}, {"no_fuse": True}])
def test_training_is_the_same_in_either_order(flags):
    want = train(layout="row_major", **flags)
    got = train(layout="channels_last", **flags)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("layout", ["row_major", "channels_last"])
def test_training_has_the_same_bits_on_any_number_of_threads(layout):
    want = train(1, layout=layout)
    for threads in (2, 3):
        for a, b in zip(train(threads, layout=layout), want, strict=True):
            np.testing.assert_array_equal(a, b)


def test_what_is_turned_for_an_op_with_several_results():
    """The full suite's find: whether its reader makes more elements of each was asked of it, not of its results."""
    a, b = (kiln.tensor(rng().standard_normal(s)) for s in ((2, 3, 3), (2, 3)))

    def fn(a, b):
        return kiln.linalg.solve_ex(a, (b * 0.5).cos().reshape(2, 3, 1)).result

    with context(layout="channels_last"):
        got = kiln.compile(fn)(a, b)
    np.testing.assert_allclose(got.numpy(), fn(a, b).numpy(), rtol=1e-9)


def test_host_calls_read_and_write_channels_last():
    """A sort along channels has no kernel."""
    x = kiln.tensor(rng().standard_normal((2, 3, 5, 6)).astype(np.float32))
    w = kiln.tensor(rng().standard_normal((4, 3, 3, 3)).astype(np.float32))

    def fn(x):
        h = F.conv2d(x, w)
        h = kiln.sort(h, 1)[0]
        return (h * 2).exp().sum((2, 3)), kiln.sort(F.conv2d(x, w), 1)[0]

    want = fn(x)
    with context(layout="channels_last"):
        got = kiln.compile(fn)(x)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-4, atol=1e-4)
