"""Routines that follow from the registry: large eager calls give what the reference gives."""

from __future__ import annotations

import numpy as np
import pytest
from tests.turns import in_turn

import kiln
from kiln.backends import derived, elementwise
from kiln.backends.cpu import one_op
from kiln.config import context
from kiln.nn import functional as F
from kiln.ops.registry import REGISTRY, Op, Sample

OPS = [
    op for op in REGISTRY.values()
    if op.eager.__module__ in (derived.__name__, elementwise.__name__) and op.samples
]  # fmt: skip
rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def kernels(monkeypatch):
    """Kernels for what is only 150,000 elements large, which NumPy would compute as quickly."""
    monkeypatch.setattr(elementwise, "STREAM", 0)


def arguments(op: Op, sample: Sample) -> list:
    """A sample's arguments for a routine, floats in float32."""

    def raw(x):
        if isinstance(x, np.ndarray):
            return np.ascontiguousarray(x, np.float32 if x.dtype == np.float64 else x.dtype)
        return [raw(y) for y in x] if isinstance(x, list | tuple) and any(isinstance(y, np.ndarray) for y in x) else x  # fmt: skip

    return [raw(a) for a in op.bind(sample.args, sample.kwargs)]


def first_sample(op: Op) -> Sample | None:
    def size(s: Sample) -> int:
        return max((a.size for a in s.args if isinstance(a, np.ndarray)), default=0)

    good = [s for s in op.samples() if s.error is None and 0 < size(s) < 100]
    return max(good, key=size, default=None)


@pytest.mark.parametrize(
    "op", [o for o in OPS if o.family not in ("elementwise", "select")], ids=lambda o: o.name
)
def test_a_sample_gives_what_the_reference_gives(op, monkeypatch):
    monkeypatch.setattr(derived, "LARGE", 0)
    monkeypatch.setattr(derived, "FEW", 0)
    sample = first_sample(op)
    if sample is None:
        pytest.skip("no sample with arrays")
    args = arguments(op, sample)
    if any(isinstance(a, np.ndarray) and a.dtype.kind == "c" for a in args):
        pytest.skip("complex numbers have no kernels")
    with np.errstate(all="ignore"):
        want = op.run(*args)
        got = op.eager(*args)
    assert isinstance(got, tuple) == isinstance(want, tuple | list)
    for a, b in zip(
        *((r if isinstance(r, tuple | list) else (r,)) for r in (got, want)), strict=True
    ):
        b = np.asarray(b)
        if b.dtype.kind == "c":
            np.testing.assert_allclose(a, b, 1e-5)
            continue
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_allclose(a.astype(np.float64), b.astype(np.float64), 1e-4, 1e-5)


SHAPE = (512, 300)
# those that have no bfloat16 lie at even places, where a quick suite takes float32
CASES = {
    "alike": (lambda a, b: a * b - b / 3, SHAPE, SHAPE),
    "a row": (lambda a, b: a + b, SHAPE, (300,)),
    "a column": (lambda a, b: (a * b).tanh(), SHAPE, (512, 1)),
    "both broadcast": (lambda a, b: kiln.where(a > b, a, b * 2), (512, 1), (300,)),
    "channels": (lambda a, b: a * b.abs().sqrt(), (4, 5, 90, 90), (5, 1, 1)),
    "long rows": (lambda a, b: a * b, (3, 2, 150_001), (2, 1)),
    "transposed": (lambda a, b: F.silu(a.T) * b.T, SHAPE, SHAPE),
    "permuted": (lambda a, b: (a.permute(2, 0, 1) + b.permute(2, 0, 1)).exp(), (40, 50, 80), (40, 50, 80)),
    "numbers": (lambda a: F.elu(a * 1.25, 0.7) + 0.1 - a**2 + a.abs() ** 1.5, SHAPE),
    "one of each order": (lambda a, b: a.T * b, SHAPE, (300, 512)),
    "alpha": (lambda a, b: kiln.add(a, b, alpha=-0.37), SHAPE, SHAPE),
    "spread gradient": (lambda a: F.gelu(a).sum(-1), SHAPE),
    "softmax": (lambda a: F.softmax(a, -1) + F.log_softmax(a, 0), SHAPE),
    "reductions": (lambda a: a.std(1) + a.amax(-1) + a.mean((1,)) + a.logsumexp(1) + a.norm(dim=1), SHAPE),
    "means": (lambda a: a.mean(0) * a.sum() + a.var(0), SHAPE),
    "cross entropy": (lambda a: F.cross_entropy(a, kiln.arange(512) % 300), SHAPE),
    "sort": (lambda a: a.sort(-1, descending=True)[0], SHAPE),
    "cat": (lambda a, b: kiln.cat([a, b], 1), SHAPE, (512, 7)),
    "cumsum": (lambda a: a.cumsum(1), SHAPE),
    "gather": (lambda a: a.gather(1, kiln.arange(512 * 300).reshape(512, 300) % 300), SHAPE),
}  # fmt: skip


@in_turn("dtype", ["float32", "bfloat16"], name=CASES)
def test_large_calls_and_their_gradients(name, dtype):
    if dtype == "bfloat16" and name in ("sort", "cumsum", "numbers", "means"):
        pytest.skip("ties, or roundings after each step, part the two")
    fn, *shapes = CASES[name]
    bases = [rng.standard_normal(s).astype(np.float32) for s in shapes]

    def results(backend: str) -> list[np.ndarray]:
        with context(eager=backend):
            xs = [kiln.tensor(b).to(getattr(kiln, dtype)).requires_grad_() for b in bases]
            y = fn(*xs)
            (y.float() * kiln.arange(y.numel()).reshape(y.shape).sin()).sum().backward()
        return [y.detach(), *(x.grad for x in xs)]

    bound = 1e-5 if dtype == "float32" else 4e-2
    for got, want in zip(results("cpu"), results("reference"), strict=True):
        assert got.dtype is want.dtype
        if name != "one of each order":  # the reference's lie as NumPy has them
            assert got.stride() == want.stride()
        a, b = got.float().numpy(), want.float().numpy()
        assert np.abs(a - b).max() <= bound * max(1, np.abs(b).max())


STREAMED = {
    **{n: (lambda a, b, n=n: getattr(kiln, n)(a, b)) for n in ("add", "sub", "mul", "div", "maximum", "minimum", "lt", "ne")},
    **{n: (lambda a, b, n=n: getattr(kiln, n)(a)) for n in ("neg", "abs", "square", "reciprocal", "floor", "ceil", "trunc", "round", "isnan")},
    "a row": lambda a, b: a + b[0], "a number": lambda a, b: a / 255, "transposed": lambda a, b: a.T - b.T,
    "in place": lambda a, b: a.clone().div_(255).sub_(b).mul_(a), "integers": lambda a, b: b.isnan().int() * 3 & 2,
    **{f"to {d}": (lambda a, b, d=d: b.nan_to_num(0, 9, 9).abs().to(getattr(kiln, d)))
       for d in ("uint8", "int16", "int32", "int64", "bool", "float64")},
    **{f"from {d}": (lambda a, b, d=d: (kiln.arange(a.numel()) % 100).to(getattr(kiln, d)).float())
       for d in ("uint8", "int16", "int32", "bool", "float64")},
}  # fmt: skip


@pytest.mark.parametrize("name", STREAMED)
def test_where_numpy_is_as_quick_kernels_have_the_same_bits(name, monkeypatch):
    bases = [rng.standard_normal(SHAPE).astype(np.float32) * 9 for _ in range(2)]
    for base in bases:
        base.reshape(-1)[rng.integers(0, base.size, 50)] = np.nan
        base.reshape(-1)[:5] = 0.0, -0.0, np.inf, -np.inf, 0.5

    def result() -> kiln.Tensor:
        return STREAMED[name](*map(kiln.tensor, bases))

    made = result()
    monkeypatch.setattr(elementwise, "STREAM", 1 << 19)
    with monkeypatch.context() as m:
        m.setattr(one_op.Shelf, "run_blocks", lambda *_: pytest.fail("no kernel was due"))
        if name in (
            "add",
            "sub",
            "mul",
            "div",
            "lt",
            "neg",
            "abs",
            "a row",
            "a number",
            "transposed",
        ):
            result()
    found = result()
    assert (found.dtype, found.stride()) == (made.dtype, made.stride())
    np.testing.assert_array_equal(found.numpy(), made.numpy())
    signs = np.signbit if found.is_floating_point() else np.asarray
    real = ~np.isnan(found.numpy())
    np.testing.assert_array_equal(signs(found.numpy())[real], signs(made.numpy())[real])


def test_other_sizes_and_numbers_make_no_new_kernels():
    def run(n: int, c: float) -> None:
        x = kiln.randn(n, 40).requires_grad_()
        (F.mish(x) * c + kiln.randn(40)).softmax(-1).exp().mean().backward()

    run(8192, 1.7)
    before = {k[:2] for k, v in one_op.shelf.made.items() if v is not None}
    run(8192, 2.3)
    run(16384, 0.3)
    after = {k[:2] for k, v in one_op.shelf.made.items() if v is not None}
    assert {k[0] for k in after - before} <= {
        "mean"
    }  # the mean of all elements, whose number differs


@pytest.mark.parametrize("size", [(1 << 18,), (131_077,), (300, 1000)])
def test_large_draws_are_the_stream_s_own(size):
    def drawn() -> list[np.ndarray]:
        kiln.manual_seed(3)
        kiln.rand(5)
        ones = kiln.ones(size)
        return [
            t.numpy()
            for t in (kiln.rand(size), kiln.randn(size), F.dropout(ones, 0.3), kiln.rand(4))
        ]

    got = drawn()
    with context(eager="reference"):
        want = drawn()
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, 1e-5, 2e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int64", "bool"])
def test_large_copies_of_views(dtype):
    x = kiln.tensor(rng.integers(0, 9, (40, 70, 90))).to(getattr(kiln, dtype))
    for view in (x.permute(2, 0, 1), x.transpose(0, 1), x.mT, x[:, ::2], x.permute(2, 1, 0)[1:]):
        want = np.ascontiguousarray(view.float().numpy())
        np.testing.assert_array_equal(view.contiguous().float().numpy(), want)
        np.testing.assert_array_equal(view.reshape(-1).float().numpy(), want.reshape(-1))
        np.testing.assert_array_equal(view.clone().float().numpy(), want)


def test_a_large_matrix_times_a_vector():
    a, v = kiln.randn(700, 500), kiln.randn(500)
    for m in (a, a.T.contiguous().T):
        np.testing.assert_allclose((m @ v).numpy(), m.numpy() @ v.numpy(), 1e-4, 1e-4)
        np.testing.assert_allclose(
            (m.mv(v) + v.matmul(m.T)).numpy(), 2 * (m.numpy() @ v.numpy()), 1e-4, 1e-4
        )


def test_the_same_call_has_the_same_bits():
    x = kiln.randn(700, 301)
    first, again = (F.softmax(x * 0.3, 0).numpy().tobytes() for _ in range(2))
    assert first == again


def test_errors_are_those_of_the_op():
    a = kiln.randn(512, 300)
    with pytest.raises(RuntimeError, match="neither is 1"):
        a + kiln.randn(512, 299)
    with pytest.raises(IndexError):
        a.gather(1, kiln.full((512, 300), 300))
    with pytest.raises(IndexError):
        a.sum(2)
    with pytest.raises(RuntimeError):
        kiln.cat([a, kiln.randn(3, 3)])
    x = a.clone().requires_grad_()
    y = x.exp()
    y.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_in_place_ops_with_numbers_and_attributes():
    x = kiln.randn(512, 300)
    want = x.numpy().copy()
    x.add_(x.clone(), alpha=-0.5).mul_(0.3).sub_(1).add_(kiln.ones(512, 300))
    np.testing.assert_allclose(x.numpy(), want * np.float32(0.15), 1e-5, 1e-6)


IN_PLACE = {
    "alike": lambda x: x.add_(x.flip(0), alpha=0.3),
    "itself": lambda x: x.mul_(x),
    "a number": lambda x: x.mul_(0.7),
    "one operand": lambda x: x.relu_(),
    "a row": lambda x: x.sub_(x[3].clone()),
    "integers": lambda x: x.add_(kiln.arange(400)),
    "rounded": lambda x: x.div_(3.7, rounding_mode="floor"),
}


@pytest.mark.parametrize("rows", [512, 515])
@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place_results_are_those_of_operands_as_they_were(name, rows):
    base = rng.standard_normal((rows, 400)).astype(np.float32)
    got = kiln.tensor(base)
    memory = got.data_ptr()
    IN_PLACE[name](got)
    with context(eager="reference"):
        want = kiln.tensor(base)
        IN_PLACE[name](want)
    np.testing.assert_allclose(got.numpy(), want.numpy(), 1e-6, 1e-6)
    assert got.data_ptr() == memory


ACROSS = {
    "its own row": lambda x: x.sub_(x[3]),
    "a shifted view": lambda x: x[1:].add_(x[:-1]),
    "its transpose": lambda x: x[:400].mul_(x[:400].T),
}


@pytest.mark.parametrize("name", ACROSS)
def test_in_place_results_may_not_lie_across_an_operand(name):
    base = rng.standard_normal((512, 400)).astype(np.float32)
    x = kiln.tensor(base)
    with pytest.raises(RuntimeError, match="single memory location"):
        ACROSS[name](x)
    np.testing.assert_array_equal(x.numpy(), base)


def test_an_in_place_result_that_does_not_fit_leaves_the_tensor_as_it_was():
    x = kiln.arange(400 * 512).reshape(512, 400)
    with pytest.raises(RuntimeError):
        x.mul_(0.5)
    assert int(x.sum()) == 400 * 512 * (400 * 512 - 1) // 2
    y = kiln.zeros(1, 400)
    with pytest.raises(RuntimeError):
        y.add_(kiln.ones(512, 400))
    assert float(y.sum()) == 0


COMPOSED = {
    "roll": (lambda a: a.roll((3, -40), (0, 1)), SHAPE),
    "tile": (lambda a: a.tile((2, 1, 3)), SHAPE),
    "pad reflect": (lambda a: F.pad(a, (3, 1, 2, 7), "reflect"), (2, *SHAPE)),
    "diff": (lambda a, b: a.diff(2, 0, prepend=b), SHAPE, (3, 300)),
    "glu": (lambda a: F.glu(a, 0), SHAPE),
    "cosine similarity": (lambda a, b: kiln.cosine_similarity(a, b), SHAPE, SHAPE),
    "trapezoid": (lambda a: kiln.trapezoid(a, dx=0.3, dim=0), SHAPE),
    "renorm": (lambda a: a.renorm(2, 1, 3.0), SHAPE),
    "one tensor twice": (lambda a: kiln.cosine_similarity(a, a, dim=0), SHAPE),
    "of a view": (lambda a: F.glu(a.T, 1), SHAPE),
}  # fmt: skip


@pytest.mark.parametrize("name", COMPOSED)
def test_large_compositions_and_their_gradients(name):
    fn, *shapes = COMPOSED[name]
    bases = [rng.standard_normal(s).astype(np.float32) for s in shapes]

    def results(backend: str) -> list:
        with context(eager=backend):
            for _ in range(2):  # what only moves elements is compiled when it is met again
                xs = [kiln.tensor(b).requires_grad_() for b in bases]
                y = fn(*xs)
            w = kiln.arange(y.numel()).reshape(y.shape).sin()
            (y * w).sum().backward()
            found = [y.detach(), *(x.grad for x in xs)]
            if name in ("glu", "of a view"):
                first = kiln.autograd.grad((fn(*xs) * w).sum(), xs, create_graph=True)
                found += [*first, *kiln.autograd.grad((first[0] * first[0] * xs[0]).sum(), xs)]
            return found

    for got, want in zip(results("cpu"), results("reference"), strict=True):
        a, b = got.detach().numpy(), want.detach().numpy()
        assert a.shape == b.shape
        assert np.abs(a - b).max() <= 1e-5 * max(1, np.abs(b).max())


def test_a_composition_s_arguments_may_not_change_before_backward():
    x = kiln.randn(*SHAPE).requires_grad_()
    h = x * 1
    y = F.glu(h)
    h.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    y = F.glu(x)
    assert y.grad_fn.name() == "GluBackward0"
    y.sum().backward()
    with pytest.raises(RuntimeError, match="second time"):
        y.sum().backward()


def test_a_composition_s_errors_are_its_own():
    with pytest.raises(RuntimeError, match="halving dimension"):
        F.glu(kiln.randn(512, 301))
    with pytest.raises(IndexError):
        kiln.randn(512, 301).roll(1, 2)
    with pytest.raises(RuntimeError):
        F.pad(kiln.randn(1, 512, 301), (400, 400), "reflect")


def test_rows_at_any_number_of_places_make_no_new_kernels():
    """Sequences of many lengths, and what masks pick, would each be compiled for otherwise."""
    x = kiln.arange(4096 * 64.0).reshape(4096, 64)
    places = np.random.default_rng(1).integers(0, 4096, (4, 2500))

    def run(n: int) -> None:
        index = kiln.tensor(places[:, :n])
        for got in (x[index], F.embedding(index, x), x.index_select(0, index[0])):
            want = places[0, :n] if got.ndim == 2 else places[:, :n]
            assert np.array_equal(got[..., 3].numpy(), want * 64 + 3)
        mask = kiln.tensor(places[0] < n)
        assert np.array_equal(x[:2500][mask].numpy(), x.numpy()[:2500][places[0] < n])

    for n in (2048, 2500):
        run(n)
    before = set(one_op.shelf.made)
    for n in (2049, 2111, 2499):
        run(n)
    assert {k[0] for k in set(one_op.shelf.made) - before} <= {"rows_at"}
    assert len(set(one_op.shelf.made) - before) <= 4
    with pytest.raises(IndexError):
        x[kiln.tensor(places + 4000)]


def test_large_masks_pick_what_numpy_picks():
    """Across the pieces in which masks are gone through, in any layout, and backward twice."""
    a = rng.standard_normal((300, 70, 5)).astype(np.float32)
    for x, m in (
        (a, a > 0.3),
        (a, a[..., 0] > 0.3),
        (a.T, a.T > 2),
        (a, a > 9),
        (a[:0], a[:0] > 0),
    ):
        t, mask = kiln.tensor(a), kiln.tensor(m)
        t = t.permute(2, 1, 0) if x.shape == a.T.shape else t[: len(x)]
        t = t.detach().requires_grad_()
        got = t[mask]
        assert np.array_equal(got.detach().numpy(), x[m])
        assert np.array_equal(mask.nonzero().numpy(), np.argwhere(m))
        (g,) = kiln.autograd.grad((got**2).sum(), t, create_graph=True)
        want = np.where(m if m.ndim == x.ndim else m[..., None], 2 * x, 0)
        np.testing.assert_allclose(g.detach().numpy(), want)
        g.sum().backward()
        np.testing.assert_allclose(t.grad.numpy(), (want != 0) * 2)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_large_complex_numbers_of_two_parts(dtype):
    a = rng.standard_normal((2, 300, 500)).astype(dtype)
    a[0, 0, :4], a[1, 0, :4] = [np.inf, np.nan, -0.0, 1], [-0.0, 1, np.inf, np.nan]
    for x, y in ((a[0], a[1]), (a[0].T, a[1].T), (a[0], a[1, :1])):
        if dtype == "float16" and x is not a[0]:
            continue
        z = kiln.complex(kiln.tensor(x), kiln.tensor(y))
        parts = np.broadcast_to(x, z.shape), np.broadcast_to(y, z.shape)
        for got, want in zip((z.real, z.imag), parts, strict=True):
            assert got.dtype is kiln.tensor(x).dtype
            np.testing.assert_array_equal(got.numpy(), want)
            assert np.array_equal(np.signbit(got.numpy()), np.signbit(want))


def test_large_tensors_are_written_at_places_where_they_lie():
    """No element is written where an index is out of range or values don't fit; views and their bases go along."""
    a = rng.standard_normal((600, 400)).astype(np.float32)
    x, want = kiln.tensor(a), a.copy()
    rows, columns = np.array([5, 599, 5, 0]), np.array([[3], [-1]])
    for place, value in (
        ((rows,), rng.standard_normal((4, 400)).astype(np.float32)),
        ((slice(None), columns), np.float32(2)),
        ((rows[:2], columns), rng.standard_normal((2, 2)).astype(np.float32)),
    ):
        index = tuple(kiln.tensor(i) if isinstance(i, np.ndarray) else i for i in place)
        x[index] = kiln.tensor(value)
        want[place] = value
    part, of = x[:, ::2], want[:, ::2]
    part[kiln.tensor(rows)] = 7.0
    of[rows] = 7
    assert np.array_equal(x.numpy(), want)
    for index, value, error in ((600, kiln.ones(400), IndexError), (5, kiln.ones(3), RuntimeError)):
        with pytest.raises(error):
            x[kiln.tensor([1, index])] = value
    assert np.array_equal(x.numpy(), want)
    assert np.array_equal(x.index_put((kiln.tensor(rows),), kiln.zeros(400))[5].numpy(), 0 * a[5])
    assert np.array_equal(x.numpy(), want)


@pytest.mark.parametrize("dims", [(48,), (4, 12)], ids=str)
@pytest.mark.parametrize("affine", [True, False], ids=["weighted", "plain"])
def test_gradients_of_norms_of_any_number_of_rows_make_few_kernels(affine, dims):
    def gradients(n: int) -> list:
        r = np.random.default_rng(n)
        x, g = (kiln.from_numpy(r.standard_normal((n, 3, *dims), np.float32)) for _ in range(2))
        w, b = (kiln.from_numpy(r.standard_normal(dims, np.float32)) for _ in range(2))
        given = [x, w, b] if affine else [x]
        for t in given:
            t.requires_grad_()
        F.layer_norm(x, dims, *given[1:]).backward(g)
        F.rms_norm(x, dims, *given[1:2]).backward(g)
        return [t.grad.numpy() for t in given]

    for n in (682, 341):  # 2046 and 1023 rows: all powers of two
        gradients(n)
    before = set(one_op.shelf.made)
    for n in (500, 333, 57):
        found = gradients(n)
        with context(eager="reference"):
            want = gradients(n)
        for a, b in zip(found, want, strict=True):
            np.testing.assert_allclose(a, b, 1e-3, 1e-5 * float(np.abs(b).max()))
        assert all(np.array_equal(a, b) for a, b in zip(found, gradients(n), strict=True))
    made = {k[0] for k in set(one_op.shelf.made) - before}
    assert not {k for k in made if "backward" in k}


def test_cross_entropy_of_any_number_of_samples_makes_few_kernels():
    def run(n: int, ignored: int, reduction: str) -> list:
        r = np.random.default_rng(n)
        x = kiln.from_numpy(r.standard_normal((n, 70), np.float32)).requires_grad_()
        t = kiln.from_numpy(r.integers(0, 70, n))
        t[:ignored] = -100
        loss = F.cross_entropy(x, t, reduction=reduction)
        loss.backward(kiln.ones_like(loss))
        return [loss.detach().numpy(), x.grad.numpy()]

    for n in (1024, 1000):
        run(n, 3, "mean")
    before = set(one_op.shelf.made)
    for n, ignored, reduction in ((1017, 5, "mean"), (999, 0, "sum"), (990, 7, "none"), (961, 961, "mean")):  # fmt: skip
        found = run(n, ignored, reduction)
        with context(eager="reference"):
            want = run(n, ignored, reduction)
        for a, b in zip(found, want, strict=True):
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            np.testing.assert_allclose(a, b, 1e-5, 1e-7)
    assert len(set(one_op.shelf.made) - before) <= 4
    with pytest.raises(IndexError):
        F.cross_entropy(kiln.randn(1000, 70), kiln.full((1000,), 70))
