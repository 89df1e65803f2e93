"""Small calls that are prepared Programs: what the reference gives, for any number of elements, in memory of their own."""

import numpy as np
import pytest

import kiln
from kiln.config import context
from kiln.nn import functional as F

CALLS = {
    "sigmoid": kiln.sigmoid,
    "gelu": F.gelu,
    "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "elu": lambda x: F.elu(x, 0.5),
    "leaky_relu": lambda x: F.leaky_relu(x, -0.0),
    "softplus": F.softplus,
    "softmax": lambda x: x.softmax(-1),
    "log_softmax": lambda x: F.log_softmax(x, 1),
    "layer_norm": lambda x: F.layer_norm(x, x.shape[1:]),
    "affine": lambda x: F.layer_norm(x, x.shape[1:], x.detach()[0] + 2, x.detach()[-1]),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("shape", [(64, 1), (1, 64), (8, 10), (13, 31), (3, 1365)])
def test_as_the_reference(name, shape):
    call, x = (
        CALLS[name],
        kiln.from_numpy(np.random.default_rng(0).standard_normal(shape, np.float32)),
    )
    runs = []
    for eager in ("cpu", "reference"):
        with context(eager=eager):
            y = x.clone().requires_grad_()
            out = call(y)
            out.backward(x.cos())
            runs.append((out.detach().numpy(), y.grad.numpy()))
    for a, b in zip(*runs, strict=True):
        np.testing.assert_allclose(a, b, 1e-4, 2e-6)


def test_each_call_has_memory_of_its_own():
    x = kiln.randn(16, 16)
    a, b = kiln.sigmoid(x), kiln.sigmoid(x + 1)
    kept = a.clone()
    b.zero_()
    assert kiln.equal(a, kept)


def test_attributes_tell_calls_apart():
    x = -kiln.ones(100)
    assert F.leaky_relu(x, 0.5)[0] == -0.5
    assert F.leaky_relu(x, 0.25)[0] == -0.25
    signs = [kiln.signbit(F.leaky_relu(x, s))[0].item() for s in (0.0, -0.0)]
    assert signs == [True, False]


def test_other_layouts_and_dtypes():
    x = kiln.randn(20, 30).t()
    assert F.gelu(x).stride() == x.stride()
    kiln.testing.assert_close(F.gelu(x), F.gelu(x.contiguous()))
    assert kiln.lgamma(x[:3]).stride() == (1, 3)
    assert kiln.lgamma(x.t()[..., ::2]).stride() == (15, 1)
    assert kiln.sigmoid(x.double()).dtype is kiln.float64
    assert kiln.sigmoid(x.bfloat16()).dtype is kiln.bfloat16


def test_ops_in_place_at_once():
    x = kiln.arange(6.0)
    version = x._version
    x.add_(kiln.ones(6), alpha=2).mul_(2).sub_(x.clone()).add_(1)
    assert x.tolist() == [1.0] * 6
    assert x._version == version + 4
    y = kiln.arange(6.0)
    with pytest.raises(RuntimeError, match="single memory location"):
        y[1:].add_(y[:-1])
    n = kiln.tensor([1, 2])
    with pytest.raises(RuntimeError):
        n.add_(0.5)
    with pytest.raises(RuntimeError):
        n.div_(2)
    leaf = kiln.ones(2, requires_grad=True)
    with pytest.raises(RuntimeError, match="leaf"):
        leaf.add_(1)
    z = kiln.ones(2)
    z.mul_(leaf)
    assert z.requires_grad
    with pytest.raises(RuntimeError):
        kiln.ones(1).expand(3).add_(kiln.ones(3))


def test_running_statistics():
    norm = kiln.nn.BatchNorm1d(3, momentum=0.5)
    x = kiln.randn(8, 3)
    version = norm.running_mean._version
    norm(x)
    kiln.testing.assert_close(norm.running_mean, x.mean(0) * 0.5)
    kiln.testing.assert_close(norm.running_var, 0.5 + x.var(0) * 0.5)
    assert norm.running_mean._version > version
    assert norm.num_batches_tracked == 1


DEAR = {
    "lgamma": kiln.lgamma, "digamma": kiln.digamma, "erfinv": lambda x: (x / 4).erfinv(),
    "igamma": lambda x: kiln.igamma(x.detach(), x + 1), "polygamma": lambda x: kiln.polygamma(1, x),
    "row by column": lambda x: kiln.igamma(x.detach().reshape(-1, 1), x),
    "clamp": lambda x: x.clamp(0.5, 1.5), "xlogy": lambda x: x.xlogy(x * 2), "lerp": lambda x: x.lerp(x * x, 0.3),
    "beta": lambda x: kiln.distributions.Beta(x, x + 1, validate_args=False).log_prob(kiln.tensor(0.3, dtype=x.dtype)),
}  # fmt: skip


@pytest.mark.parametrize("name", DEAR)
def test_kernels_of_any_number_of_elements(name):
    for n, dtype in ((0, "float32"), (1, "float64"), (7, "float32"), (16, "float32"), (45, "float64"), (45, "float32")):  # fmt: skip
        x, runs = kiln.linspace(0.3, 2.7, n, dtype=getattr(kiln, dtype)), []
        for eager in ("cpu", "reference"):
            with context(eager=eager):
                y = x.clone().requires_grad_()
                out = DEAR[name](y)
                out.sum().backward()
                runs.append((out.detach(), y.grad))
        kiln.testing.assert_close(*runs, rtol=2e-6, atol=2e-6)
    x = kiln.tensor(0.7).requires_grad_()
    DEAR[name](x).sum().backward()
    assert x.grad.shape == ()


def test_numbers_that_change_take_no_further_kernels():
    from kiln.backends.elementwise import _known

    x = kiln.linspace(-1, 1, 40)
    x.clamp(-0.3, 0.3)
    before = len(_known)
    for k in range(2, 7):
        assert x.clamp(-k / 10.5, k / 9.5).max() == kiln.tensor(k / 9.5)
        kiln.addcdiv(x, x, x + 2, value=-k / 7)
    assert len(_known) == before


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("shape", [(1,), (3, 17), (1, 65), (2, 2, 128)])
def test_short_rows_in_order(shape, dtype):
    """By counting: ties keep their order, zeros of both signs are equal, NaN is above all."""
    r = np.random.default_rng(3)
    a = r.integers(-3, 4, shape).astype(dtype) / 2
    for special in (np.nan, -0.0, np.inf, -np.inf):
        a[r.random(shape) < 0.1] = special
    x, k = kiln.from_numpy(a), max(1, shape[-1] // 3)
    for largest in (False, True):
        runs = []
        for eager in ("cpu", "reference"):
            with context(eager=eager):
                found = kiln.sort(x, descending=largest), kiln.topk(x, k, largest=largest)
                runs.append([t.numpy() for pair in found for t in pair])
        for ours, due in zip(*runs, strict=True):
            np.testing.assert_array_equal(ours, due)
            np.testing.assert_array_equal(np.signbit(ours[ours == 0]), np.signbit(due[due == 0]))


def test_numbers_at_ellipses_and_masks():
    for value, dtype in ((True, "bool"), (5, "bool"), (-7, "int64"), (2.5, "float64")):
        x = kiln.zeros(2, 3, 4, dtype=getattr(kiln, dtype))
        version = x._version
        x[..., 1:] = value
        x[0, ..., 2] = 0
        due = np.zeros((2, 3, 4), dtype)
        due[..., 1:] = value
        due[0, ..., 2] = 0
        np.testing.assert_array_equal(x.numpy(), due)
        assert x._version == version + 2
        assert x[..., :-1].is_set_to(x[:, :, :-1])
    with pytest.raises(RuntimeError, match="overflow"):
        kiln.zeros(3, dtype=kiln.int64)[0:1] = 2**63
    with pytest.raises(IndexError):
        x[..., 0, ...]
    with pytest.raises(IndexError):
        x[0, 0, 0, ..., 0]
    y = kiln.arange(24).view(2, 3, 4)
    for at in (np.array([1, 0]), kiln.tensor([1, 0]), [1, 0]):
        assert y[..., at].tolist() == y.numpy()[..., [1, 0]].tolist()
    x = kiln.ones(3, requires_grad=True)
    mask = kiln.tensor([True, False, True])
    x.masked_fill(mask, -float("inf")).masked_fill(~mask, 2.0)[1].backward()
    assert x.grad.tolist() == [0, 0, 0]
    with pytest.raises(RuntimeError, match="overflow"):
        x.detach().masked_fill(mask, 1e39)
