"""Functions with a short path of their own give what dispatch gives, refuse what it refuses, and leave the rest to it."""

import warnings

import numpy as np
import pytest

import kiln
from kiln.autograd.tape import record
from kiln.nn import functional as F
from kiln.tensor import wrap


class Named(kiln.Tensor):
    """A tensor whose class is asked."""

    seen: list = []  # noqa: RUF012

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        cls.seen.append(func.__name__)
        return super().__torch_function__(func, types, args, kwargs or {})


def test_what_was_let_pass_once_is_not_let_pass_for_others():
    x = kiln.randn(3, 4)
    for _ in range(2):
        assert kiln.softmax(x, 1).shape == (3, 4)
        assert kiln.topk(x, 1).values.shape == (3, 1)
        assert F.layer_norm(x, (4,)).shape == (3, 4)
    for wrong in (lambda: kiln.softmax(x, 2), lambda: kiln.softmax(x, 1.0), lambda: kiln.softmax(x.long(), 1),
                  lambda: kiln.topk(x, 5), lambda: F.layer_norm(x, (4.0,)), lambda: F.layer_norm(x, (3,)),
                  lambda: F.layer_norm(x, (4,), kiln.ones(3))):  # fmt: skip
        with pytest.raises((IndexError, RuntimeError, TypeError)):
            wrong()


def test_histories_modes_and_classes_are_as_ever():
    x = kiln.randn(1, 5, requires_grad=True)
    assert kiln.softmax(x, 1).grad_fn is not None
    with kiln.no_grad():
        assert kiln.softmax(x, 1).grad_fn is None
    with kiln.autocast("cpu"):
        assert F.linear(x, kiln.randn(2, 5)).dtype is kiln.bfloat16
    named = kiln.randn(1, 5).as_subclass(Named)
    kiln.softmax(named, 1)
    kiln.cat([kiln.zeros(1, 5), named])
    assert Named.seen == ["softmax", "cat"]
    assert kiln.softmax(kiln.empty(2, 3, device="meta"), 1).is_meta
    (g,) = kiln.autograd.grad(kiln.cat([x[:, 1:], x[:, :1]], 1)[0, 4], x)
    assert g.tolist() == [[1, 0, 0, 0, 0]]


def test_warnings_that_are_errors_elsewhere_do_not_get_in_the_way():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = kiln.log_softmax(kiln.tensor([[-np.inf, 0.0]]), 1)
    assert y.tolist() == [[-np.inf, 0.0]]


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize(
    "row", [[1.0, 3, 3, -2, 5, 0], [np.nan, 1, np.nan, 2], [-0.0, 0.0, np.inf, -np.inf], [4.0]]
)
def test_the_first_of_a_short_row_are_those_of_many(row, largest):
    for k in range(1, len(row) + 1):
        one = kiln.topk(kiln.tensor([row]), k, largest=largest)
        two = kiln.topk(kiln.tensor([row, row]), k, largest=largest)
        np.testing.assert_array_equal(one.indices[0].numpy(), two.indices[1].numpy())
        np.testing.assert_array_equal(one.values[0].numpy(), two.values[1].numpy())
    assert kiln.topk(kiln.tensor(row), 1, 0, largest).values.shape == (1,)


def test_indices_of_ints_slices_and_a_list():
    a = np.arange(60.0).reshape(3, 4, 5)
    x = kiln.from_numpy(a.copy())
    for index in ((0, -1), (slice(None), -1), (slice(1, -1), slice(2)), (slice(5, 1),), (slice(None), [0, -1]),
                  (slice(None), slice(1, 3), [4, 4, 0]), ([2, 0],), ([2, 0], slice(1, 2)), (slice(None), [0], 1), ()):  # fmt: skip
        np.testing.assert_array_equal(x[index].numpy(), a[index])
    for wrong in ((0, 4), (slice(None), [4]), (0, 0, 0, 0)):
        with pytest.raises(IndexError):
            x[wrong]
    part = x[1:, -1]
    part += 1
    assert (x[1:, -1].numpy() == a[1:, -1] + 1).all()
    one, many = kiln.ones(2, 3, requires_grad=True), [[0, 2, 2]]
    one[:, many[0]].sum().backward()
    assert one.grad.tolist() == [[1, 0, 2]] * 2


def test_parts_of_one_call_may_not_be_written_to_where_autograd_would_see_it():
    x = kiln.ones(4, 2, requires_grad=True) * 1
    first, second = x.split(2)
    with pytest.raises(RuntimeError):
        first.add_(1)
    x.mul_(3)
    assert second.tolist() == [[3, 3], [3, 3]]
    with pytest.raises(RuntimeError, match="several results"):
        second.grad_fn
    base = kiln.zeros(4)
    for part in base:
        part.fill_(2)
    assert base.tolist() == [2] * 4
    assert base._version == 4


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("dtype", [kiln.float32, kiln.float64, kiln.bfloat16])
def test_bags_are_the_sums_of_their_rows(mode, dtype):
    r = np.random.default_rng(0)
    index, offsets = r.integers(0, 50, 300), np.array([0, 7, 7, 100, 290])
    w = kiln.from_numpy(r.standard_normal((50, 37))).to(dtype).requires_grad_()
    out = F.embedding_bag(kiln.from_numpy(index), w, kiln.from_numpy(offsets), mode=mode)
    g = kiln.from_numpy(r.standard_normal((5, 37))).to(dtype)
    out.backward(g)
    exact, table = np.zeros((5, 37)), np.zeros((50, 37))
    wide, up = w.detach().double().numpy(), g.double().numpy()
    for b, (low, high) in enumerate(zip(offsets, [*offsets[1:], 300], strict=True)):
        share = 1 / max(1, high - low) if mode == "mean" else 1
        for i in index[low:high]:
            exact[b] += wide[i] * share
            table[i] += up[b] * share
    bound = 0.1 if dtype is kiln.bfloat16 else 1e-4
    np.testing.assert_allclose(out.detach().double().numpy(), exact, bound, bound)
    np.testing.assert_allclose(w.grad.double().numpy(), table, bound, bound)
    with pytest.raises(IndexError):
        F.embedding_bag(kiln.full((600,), 50), w, kiln.tensor([0]), mode=mode)


def test_gradients_are_clipped_by_their_joint_norm():
    ps = [kiln.zeros(n, requires_grad=True) for n in (3, 1 << 18)]
    for p, v in zip(ps, (4.0, 0.01), strict=True):
        p.grad = kiln.full(p.shape, v)
    want = (3 * 16 + (1 << 18) * 1e-4) ** 0.5
    assert kiln.nn.utils.clip_grad_norm_(ps, 1e6).item() == pytest.approx(want, rel=1e-5)
    assert ps[0].grad.tolist() == [4, 4, 4]
    assert kiln.nn.utils.clip_grad_norm_(ps, 1.0).item() == pytest.approx(want, rel=1e-5)
    assert ps[0].grad[0].item() == pytest.approx(4 / (want + 1e-6), rel=1e-5)
    total = kiln.nn.utils.clip_grad_norm_([p.detach().requires_grad_() for p in ps], 1.0)
    assert total.item() == 0


def _facts(node):
    return (
        node.op, node.plan, node.edges, node.n_out, list(node.versions), node.outs and node.outs[1],
        [x.shape if isinstance(x, kiln.Tensor) else x for x in node.args],
    )  # fmt: skip


def test_written_recorders_put_on_the_tape_what_the_general_one_does():
    x, w, b = kiln.randn(2, 3), kiln.randn(4, 3), kiln.randn(4)
    y, z = kiln.randn(2, 3), kiln.rand(2, 3)
    calls = [(F.linear, (x, w, b)), (F.linear, (x, w, None)), (kiln.lerp, (x, y, z)), (kiln.lerp, (x, y, 0.5)),
             (kiln.sigmoid, (x,)), (kiln.tanh, (x,)), (kiln.exp, (x,)), (kiln.mul, (x, y))]  # fmt: skip
    for many in ([x, y, z], [x], (x, y)):
        calls.append((kiln.cat, (many, 1)))
    for fn, args in calls:
        floats = [t for a in args for t in (a if isinstance(a, list | tuple) else (a,))
                  if isinstance(t, kiln.Tensor) and t.is_floating_point()]  # fmt: skip
        for which in range(1, 1 << len(floats)):
            for k, t in enumerate(floats):
                t.requires_grad_(bool(which >> k & 1))
            for _ in range(2):  # the first call of an op writes its short path
                out = fn(*args)
            op, given = fn.op, (*args, *(p.default for p in fn.op.params[len(args) :]))
            other = wrap(out._a)
            other._ver = out._ver
            general = record(op, given, (other,))
            assert _facts(out.grad_fn) == _facts(general), (op.name, which)
            out.sum().backward()
            assert [t.grad is not None for t in floats] == [bool(which >> k & 1) for k in range(len(floats))]  # fmt: skip
            for t in floats:
                t.grad = None


def test_what_a_written_recorder_saved_may_not_be_changed():
    w = kiln.randn(4, 3, requires_grad=True)
    x = kiln.randn(2, 3)
    out = F.linear(x, w)
    x.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()
    out = F.linear(x, w).sigmoid()
    out.data.mul_(2)  # which nobody sees
    seen = []
    with kiln.autograd.graph.saved_tensors_hooks(lambda t: seen.append(t.shape) or t, lambda t: t):
        F.linear(x, w)
        kiln.cat([w, x])
    assert seen == [(2, 3)]
    with kiln.no_grad():
        assert kiln.cat([w, x]).grad_fn is None
    assert kiln.cat([w[:, :1], w[:, 1:]], 1).grad_fn.next_functions[0][0] is not None


def test_sums_in_place_with_a_factor_are_those_of_any_path():
    for d in (kiln.float32, kiln.float64, kiln.float16, kiln.int64):
        x, y = kiln.arange(6).reshape(2, 3).to(d), kiln.arange(6, 0, -1).reshape(2, 3).to(d)
        alpha = 3 if d is kiln.int64 else -0.3
        for name in ("add", "sub"):
            a = x.clone()
            seen = a._version
            assert getattr(a, name + "_")(y, alpha=alpha) is a
            assert a._version == seen + 1
            np.testing.assert_array_equal(a, getattr(kiln, name)(x, y, alpha=alpha))
    a = kiln.ones(3)
    assert a.add_(2, alpha=0.5).add_(kiln.ones(()), alpha=2).tolist() == [4, 4, 4]
    p, b = kiln.ones(3, requires_grad=True), kiln.ones(3)
    with pytest.raises(RuntimeError):
        p.add_(b, alpha=2)
    b.add_(p, alpha=2).sum().backward()
    assert p.grad.tolist() == [2, 2, 2]


def test_sigmoids_of_few_elements():
    ends = [-np.inf, -1e4, -30.0, -0.0, 1.0, 30.0, 1e4, np.inf]
    right = [0, 0, 1 / (1 + np.exp(30)), 0.5, 1 / (1 + np.exp(-1)), 1 / (1 + np.exp(-30)), 1, 1]
    for d, rel in ((kiln.float16, 1e-3), (kiln.float32, 1e-6), (kiln.float64, 1e-14)):
        y = kiln.tensor(ends, dtype=d).sigmoid()
        assert y.dtype is d
        assert y.tolist() == pytest.approx(right, rel, 1e-7)
        assert kiln.tensor(1.0, dtype=d).sigmoid().item() == y[4].item()
    assert kiln.tensor(np.nan).sigmoid().isnan()
    x = kiln.randn(4, 3)
    np.testing.assert_array_equal(x.T.sigmoid(), x.sigmoid().T)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kiln.tensor([-1e4]).sigmoid().tolist() == [0]


def test_derivatives_of_elu_to_the_third():
    x = kiln.tensor([-2.0, -0.5, 0.0, 0.5, np.nan], requires_grad=True)
    for f, alpha, scale in ((lambda: F.elu(x, 0.7), 0.7, 1.0), (lambda: F.selu(x), 1.6732632, 1.0507010)):  # fmt: skip
        g, above = f(), scale
        for _ in range(3):
            (g,) = kiln.autograd.grad(g.sum(), x, create_graph=True)
            slope = [scale * alpha * np.exp(v) for v in (-2, -0.5, 0)]
            assert g[:4].tolist() == pytest.approx([*slope, above], rel=1e-5)
            above = 0.0


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_gradients_of_picked_classes(reduction):
    for t, weight in (([2], None), ([2, -100, 0], None), ([1, 1, 0], None), ([0, 2], kiln.tensor([0.5, 1, 2.0])), ([-100], None)):  # fmt: skip
        x, n = kiln.randn(len(t), 3, requires_grad=True), len(t)
        F.nll_loss(x, kiln.tensor(t), weight, reduction=reduction).sum().backward()
        w = [0 if k < 0 else 1 if weight is None else weight[k].item() for k in t]
        total = sum(w) if reduction == "mean" else 1
        right = np.zeros((n, 3))
        with np.errstate(invalid="ignore"):
            for i, k in enumerate(t):
                if k >= 0:
                    right[i, k] = -w[i] / total
        np.testing.assert_allclose(x.grad, right, rtol=1e-6)


def test_probabilities_are_looked_at_as_bits():
    one = kiln.ones(4)
    for p in ([0.0, -0.0, 1.0, 0.5], [0.0, 0.25, 1.0, 1e-45]):
        assert np.isfinite(F.binary_cross_entropy(kiln.tensor(p), one).item())
    for p in ([0.0, -1e-45, 1.0, 0.5], [np.nextafter(np.float32(1), 2)] * 4, [np.nan] * 4):
        for d in (kiln.float32, kiln.float64):
            with pytest.raises(RuntimeError):
                F.binary_cross_entropy(kiln.tensor(p, dtype=d), one.to(d))


def test_writing_at_ints_and_slices():
    a, v = np.zeros((3, 4)), np.arange(4.0)
    for index, value in ((1, v), (-1, v[None]), ((0, 2), 5.0), ((slice(1, None), slice(2)), v[:2]), (..., 3), ((..., -1), v[:3]),
                         (slice(5, 1), v), ((slice(None, None, 2), 1), v[:2]), ((None, 1), v), (0, np.inf)):  # fmt: skip
        b, x = a.copy(), kiln.zeros(3, 4, dtype=kiln.float64)
        seen, part = x._version, x[1:]
        b[index] = value
        x[index] = kiln.tensor(value) if isinstance(value, np.ndarray) else value
        np.testing.assert_array_equal(x, b)
        assert part._version == x._version == seen + 1
    x = kiln.zeros(3, 4)
    x[0] = kiln.arange(4)  # another dtype
    x[1] = x[0]
    with pytest.raises(RuntimeError):
        x[1:] = x[:-1]  # which lie across each other
    assert x.tolist() == [[0, 1, 2, 3], [0, 1, 2, 3], [0, 0, 0, 0]]
    for index, value in ((3, 1.0), ((0, 0, 0), 1.0), (0, kiln.ones(3)), (0, kiln.ones(2, 4))):
        with pytest.raises((IndexError, RuntimeError)):
            x[index] = value
    p, w = kiln.zeros(3, requires_grad=True), kiln.ones(2, requires_grad=True)
    with pytest.raises(RuntimeError):
        p[0] = 1.0
    with kiln.no_grad():
        p[0] = 1.0
    y = kiln.zeros(3)
    y[:2] = w * 2
    y[1] = kiln.tensor(5.0)
    y.sum().backward()
    assert (w.grad.tolist(), y.tolist(), p.tolist()) == ([2, 0], [2, 5, 0], [1, 0, 0])
    z = w * 1
    square = z * z
    z[0] = 3.0
    with pytest.raises(RuntimeError, match="inplace"):
        square.sum().backward()


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0,), (2, 1, 3)])
def test_stacks_of_few(shape):
    for d in (kiln.float32, kiln.float16, kiln.bfloat16, kiln.int64, kiln.bool, kiln.complex64):
        xs = [kiln.arange(np.prod(shape, dtype=int)).reshape(shape).to(d) + i for i in range(3)]
        for dim in range(-1 - len(shape), len(shape) + 1):
            y = kiln.stack(xs, dim)
            right = np.stack([x.to(kiln.complex128).numpy() for x in xs], dim)
            assert y.dtype is xs[0].dtype
            assert y.is_contiguous()
            np.testing.assert_array_equal(y.to(kiln.complex128), right)
    mixed = kiln.stack([kiln.ones(shape), kiln.ones(shape, dtype=kiln.float64)])
    assert mixed.dtype is kiln.float64
    w = kiln.ones(shape, requires_grad=True)
    (kiln.stack([w, kiln.zeros(shape), w * 2]) * 3).sum().backward()
    np.testing.assert_array_equal(w.grad, np.full(shape, 9.0))


def test_in_place_ops_of_few_elements():
    a, b = kiln.randn(3, 4), kiln.rand(3, 4) + 1
    for name, rest, named in (("addcdiv", (b, b), {"value": -0.5}), ("addcmul", (b, a), {}), ("clamp", (-0.5, 0.5), {}), ("add", (b[0],), {}),
                              ("clamp", (), {"max": b}), ("masked_fill", (a > 0, 2.0), {}), ("lerp", (b, 0.1), {})):  # fmt: skip
        x = a.clone()
        assert getattr(x, name + "_")(*rest, **named) is x
        np.testing.assert_array_equal(x.numpy(), getattr(a, name)(*rest, **named).numpy())
        assert x._version == 1
    x, whole = kiln.zeros(4, requires_grad=True), kiln.zeros(6, requires_grad=True) * 1
    for wrong in (lambda: x.clamp_(0), lambda: a[0].clone().addcmul_(a, a), lambda: kiln.ones(3, dtype=kiln.int64).addcdiv_(b[0, :3], b[0, :3]),
                  lambda: b.view(12)[1:].addcmul_(b.view(12)[:-1], b.view(12)[:-1]), lambda: kiln.ones(1).expand(4).clamp_(0)):  # fmt: skip
        with pytest.raises(RuntimeError):
            wrong()
    whole[1:3].clamp_(1, 2)
    assert whole.tolist() == [0, 1, 1, 0, 0, 0]
    assert type(whole.grad_fn).__name__ == "CopySlices"
    y = (x + 1).exp()
    y.detach().clamp_(0, 1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_indices_of_several_tensors_and_new_dimensions():
    a = np.arange(60.0).reshape(3, 4, 5)
    x = kiln.from_numpy(a.copy()).requires_grad_()
    i, j, k = kiln.tensor([0, -1, 2]), kiln.tensor([3, 3, -4]), kiln.tensor([[1], [-1]])
    for index in ((i, j), (i, j, j), (k, i), (i, slice(None), j), (slice(None), j), (i, k, j), (i,), (None, i), (slice(None), None, 1),
                  (None, slice(1, 3), None), (0, None, slice(2)), (None,), (i, None, j), (Ellipsis, i)):  # fmt: skip
        plain = tuple(t.numpy() if isinstance(t, kiln.Tensor) else t for t in index)
        got = x[index]
        np.testing.assert_array_equal(got.detach().numpy(), a[plain])
        (g,) = kiln.autograd.grad(got.sum(), x)
        want = np.zeros_like(a)
        np.add.at(want, plain, 1)
        np.testing.assert_array_equal(g.numpy(), want)
    for wrong in ((i, kiln.tensor([0, 4, 0])), (i, i, i, i), (None, 0, 0, 0, 0)):
        with pytest.raises(IndexError):
            x[wrong]


@pytest.mark.parametrize("ignored", [0, 1])
def test_cross_entropy_of_few_rows_has_second_gradients(ignored):
    x = kiln.randn(3, 4, dtype=kiln.float64, requires_grad=True)
    y = kiln.tensor([1, 3, -100 if ignored else 0])
    for reduction in ("mean", "sum", "none"):
        assert kiln.autograd.gradgradcheck(
            lambda x, r=reduction: F.cross_entropy(x, y, reduction=r), x
        )
        (g,) = kiln.autograd.grad(
            F.cross_entropy(x, y, reduction=reduction).sum(), x, create_graph=True
        )
        (h,) = kiln.autograd.grad(F.cross_entropy(x, y, reduction=reduction).sum(), x)
        np.testing.assert_allclose(g.detach().numpy(), h.numpy(), rtol=1e-12, atol=1e-15)


def test_gradients_that_are_one_number_for_all_elements():
    x = kiln.rand(100, requires_grad=True)
    for f in (kiln.round, kiln.floor, kiln.sign, lambda x: x.clamp(2, 1), lambda x: x.fmod(1)):
        x.grad = None
        (f(x) + x).sum().backward()
        assert x.grad.eq(x.grad[0]).all()
