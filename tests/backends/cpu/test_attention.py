"""Attention kernels against the op's reference: shapes, strides, masks, levels, threads."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from harness import guarded, levels, margins_untouched, run, run_threaded, strides, unique
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.turns import in_turn

import kiln
import kiln.nn.functional as F
from kiln.backends.cpu import attention, attention_grad, attention_rows
from kiln.backends.cpu.attention_tiles import Attention, Mask
from kiln.backends.cpu.isa import make_isa
from kiln.config import context
from kiln.ops.attention import attention as op
from kiln.ops.attention import attention_grad as grad_op

DTYPES = {"f32": np.float32, "f64": np.float64}
TOLERANCE = {"f32": 3e-5, "f64": 1e-12}


class Problem:
    """Inputs of one attention as (N, heads, length, features) views of memory laid out (N, length, heads, …)."""

    def __init__(self, n, heads, groups, length, keys, features, values, dtype="f32", mask=None,
                 causal=False, scale=0.25, seed=0, packed=False):  # fmt: skip
        r = np.random.default_rng(seed)
        d = DTYPES[dtype]

        def draw(*shape):
            return r.standard_normal(shape).astype(d)

        if packed:  # one array with query, key and value side by side, as a projection gives them
            whole = draw(n, length, heads + 2 * groups, features)
            parts = np.split(whole, (heads, heads + groups), 2)
            self.q, self.k, self.v = (x.swapaxes(1, 2) for x in parts)
        else:
            self.q = draw(n, length, heads, features).swapaxes(1, 2)
            self.k = draw(n, keys, groups, features).swapaxes(1, 2)
            self.v = draw(n, groups, keys, values)
        self.g = draw(n, length, heads, self.v.shape[3])
        self.mask = None
        if mask == "bool":
            self.mask = r.random((n, 1, length, keys)) > 0.3
            self.mask[:, :, 0] = False
        elif mask is not None:
            shape = {"full": (n, heads, length, keys), "keys": (n, 1, 1, keys), "rows": (1, 1, length, 1)}  # fmt: skip
            self.mask = draw(*shape[mask])
        self.causal, self.scale, self.dtype = causal, scale, dtype

    @property
    def call(self):
        return self.q, self.k, self.v, self.mask, self.causal, self.scale

    @property
    def spec(self):
        n, heads, length, features = self.q.shape
        mask = None
        if self.mask is not None:
            own = zip(strides(self.mask), self.mask.shape, strict=True)
            kind = "bool" if self.mask.dtype == bool else self.dtype
            mask = Mask(kind, tuple(0 if size == 1 else s for s, size in own))
        return Attention(
            n, heads, self.k.shape[1], length, self.k.shape[2], features, self.v.shape[3],
            strides(self.q)[:3], strides(self.k)[:3], strides(self.v)[:3], mask, self.causal,
            self.scale, self.dtype, strides(self.g)[:3],
        )  # fmt: skip

    def forward(self, isa, threads=None):
        spec = self.spec
        n, heads, length, _ = self.q.shape
        out = guarded((n, length, heads, spec.values), DTYPES[self.dtype])
        lse = guarded((n, heads, length), DTYPES[self.dtype])
        kernel = attention.emit(spec, isa, unique("forward", spec, isa.name))
        arrays = [out, self.q, self.k, self.v, lse, self.q if self.mask is None else self.mask]
        launch(kernel, isa, arrays, threads)
        return out, lse

    def backward(self, isa, out, lse, threads=None):
        spec, d = self.spec, DTYPES[self.dtype]
        n, heads, length, features = self.q.shape
        groups, keys = spec.groups, spec.keys
        dq = guarded((n, length, heads, features), d)
        dk, dv = guarded((n, keys, groups, features), d), guarded((n, keys, groups, spec.values), d)
        kernel = attention_grad.emit(spec, isa, unique("backward", spec, isa.name))
        mask = self.q if self.mask is None else self.mask
        launch(kernel, isa, [dq, dk, dv, self.q, self.k, self.v, self.g, out, lse, mask], threads)
        return dq, dk, dv

    def check(self, isa):
        want = op.op.reference(*self.call)
        got = self.forward(isa)
        grads = grad_op.op.reference(self.g, *self.call[:4], *want, *self.call[4:])
        found = self.backward(isa, *want)
        for x, y in zip((*got, *found), (*want, *grads), strict=True):
            scale = max(1.0, np.abs(y[np.isfinite(y)]).max(initial=0))
            np.testing.assert_allclose(x, y, rtol=0, atol=TOLERANCE[self.dtype] * scale)
            assert margins_untouched(x)


def launch(kernel, isa, arrays, threads):
    if threads is None:
        run(kernel, isa, arrays)
    else:
        run_threaded(kernel, isa, arrays, threads)


SHAPES = [
    (2, 2, 2, 64, 64, 32, 32),  # everything a multiple of everything
    (1, 4, 2, 33, 50, 20, 24),  # nothing is; grouped heads
    (1, 2, 1, 7, 3, 5, 3),
    (1, 1, 1, 300, 290, 16, 40),  # several blocks of rows and keys
    (1, 2, 2, 20, 300, 64, 16),  # more keys than rows
    (1, 2, 2, 150, 20, 48, 64),
    (1, 1, 1, 1, 1, 1, 1),
    (1, 1, 1, 17, 31, 128, 128),
]


@in_turn("isa,causal", list(itertools.product(levels(), (False, True))), shape=SHAPES)
def test_shapes(isa, shape, causal):
    Problem(*shape, causal=causal).check(isa)


@in_turn("isa", levels(), mask=("bool", "full", "keys", "rows"))
def test_masks(isa, mask):
    Problem(2, 2, 1, 21, 35, 18, 16, mask=mask).check(isa)
    Problem(1, 2, 2, 12, 270, 8, 8, mask=mask, scale=-0.5).check(isa)


def test_doubles(isa):
    Problem(1, 2, 1, 40, 150, 20, 12, "f64", causal=True).check(isa)
    Problem(1, 2, 2, 19, 23, 7, 9, "f64", mask="bool").check(isa)


def test_query_key_and_value_side_by_side_in_one_array(isa):
    Problem(2, 4, 2, 30, 30, 16, 16, packed=True, causal=True).check(isa)


@settings(max_examples=12, deadline=None)
@given(
    st.integers(1, 2), st.integers(1, 2), st.integers(1, 3), st.integers(1, 70),
    st.integers(1, 70), st.integers(1, 40), st.integers(1, 40),
    st.sampled_from([None, "bool", "full", "keys", "rows", "causal"]), st.booleans(),
    st.integers(0, 9),
)  # fmt: skip
def test_any_problem(n, groups, repeat, length, keys, features, values, mask, packed, seed):
    causal, mask = mask == "causal", None if mask == "causal" else mask
    if packed:
        keys, values = length, features
    Problem(
        n, groups * repeat, groups, length, keys, features, values, mask=mask, causal=causal,
        seed=seed, packed=packed,
    ).check(make_isa())  # fmt: skip


@pytest.mark.parametrize("causal", [False, True])
def test_the_same_bits_on_any_number_of_threads(causal):
    p, isa = Problem(2, 4, 2, 200, 300, 64, 64, causal=causal), make_isa()
    out, lse = p.forward(isa, 1)
    grads = p.backward(isa, out, lse, 1)
    for threads in (2, 3):
        again = p.forward(isa, threads)
        for x, y in zip((out, lse, *grads), (*again, *p.backward(isa, out, lse, threads)), strict=True):  # fmt: skip
            np.testing.assert_array_equal(x, y)


def test_large_scores_do_not_overflow(isa):
    p = Problem(1, 1, 1, 40, 300, 16, 16)
    p.q *= 1000
    out, lse = p.forward(isa)
    want = op.op.reference(*p.call)
    assert np.isfinite(out).all()
    np.testing.assert_allclose(lse, want[1], rtol=1e-4)
    np.testing.assert_allclose(out, want[0], rtol=0, atol=1e-2)


def test_a_mask_of_the_most_negative_number_is_not_minus_infinity(isa):
    p = Problem(1, 1, 1, 9, 20, 8, 8, mask="full")
    p.mask[...] = 0
    p.mask[..., 10:] = np.finfo(np.float32).min  # these take no part
    p.mask[:, :, 4] = np.finfo(np.float32).min  # where all are alike, all take part
    out, _ = p.forward(isa)
    np.testing.assert_allclose(out, op.op.reference(*p.call)[0], rtol=0, atol=1e-5)
    np.testing.assert_allclose(out[0, 4, 0], p.v[0, 0].mean(0), rtol=0, atol=1e-5)


@in_turn("isa", levels(), keys=(20, 300))
def test_rows_that_see_nothing_are_zero_and_get_no_gradient(isa, keys):
    p = Problem(1, 2, 2, 9, keys, 8, 8, mask="bool")
    out, lse = p.forward(isa)
    assert (out[:, 0] == 0).all()
    assert (lse[:, :, 0] == np.inf).all()
    dq, dk, dv = p.backward(isa, out, lse)
    assert (dq[:, 0] == 0).all()
    assert np.isfinite(dk).all()
    assert np.isfinite(dv).all()


def test_nan_stays_in_its_row(isa):
    p = Problem(1, 1, 1, 20, 30, 8, 8)
    p.q[0, 0, 3] = np.nan
    out, lse = p.forward(isa)
    assert np.isnan(out[0, 3]).all()
    assert np.isnan(lse[0, 0, 3])
    assert np.isfinite(np.delete(out[0], 3, 0)).all()


@in_turn(
    "isa,value,shape",
    [
        (isa, x, shape)
        for isa in levels()
        for shape in [(1, 2, 2, 21, 35, 18, 16), (1, 2, 1, 300, 290, 8, 8)]
        for x in (np.nan, np.inf)
    ],
    which="qkvg",
)
def test_causal_attention_hides_no_nan_behind_weights_of_zero(isa, shape, value, which):
    p = Problem(*shape, causal=True)
    x = getattr(p, which)
    for at in ((0, -1, -2, 1), (0, 0, 2, 0)):
        if which == "g":
            at = (at[0], at[2], at[1], at[3])
        x[at] = value
        with np.errstate(invalid="ignore", over="ignore"):
            want = op.op.reference(*p.call)
            grads = grad_op.op.reference(p.g, *p.call[:4], *want, *p.call[4:])
        got = *p.forward(isa), *p.backward(isa, *want)
        for found, due in zip(got, (*want, *grads), strict=True):
            np.testing.assert_array_equal(np.isfinite(found), np.isfinite(due))


# -- in programs -----------------------------------------------------------------------------------


def projected(causal: bool):
    """Attention the way models write it: projection, split, heads, attention, heads joined again."""

    def step(x, w):
        b, t, c = x.shape
        q, k, v = (x @ w).split(c, 2)
        q, k, v = (y.view(b, t, 4, c // 4).transpose(1, 2) for y in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        loss = (out.transpose(1, 2).reshape(b, t, c) ** 2).sum()
        return loss, *kiln.autograd.grad(loss, [x, w])

    return step


@pytest.mark.parametrize("causal", [False, True])
def test_a_compiled_step_with_attention_is_the_eager_one(causal):
    r = np.random.default_rng(1)
    x = kiln.tensor(r.standard_normal((2, 24, 32)), dtype=kiln.float32, requires_grad=True)
    w = kiln.tensor(r.standard_normal((32, 96)) / 6, dtype=kiln.float32, requires_grad=True)
    step = projected(causal)
    for got, want in zip(kiln.compile(step)(x, w), step(x, w), strict=True):
        np.testing.assert_allclose(got.detach(), want.detach(), rtol=1e-4, atol=1e-3)


def test_no_operand_of_attention_is_copied_and_no_score_is_stored(capfd):
    r = np.random.default_rng(1)
    x = kiln.tensor(r.standard_normal((2, 24, 32)), dtype=kiln.float32, requires_grad=True)
    w = kiln.tensor(r.standard_normal((32, 96)) / 6, dtype=kiln.float32, requires_grad=True)
    step = kiln.compile(projected(True))
    step(x, w)
    with kiln.config.context(debug=2):
        step(x, w)
    kernels = [line for line in capfd.readouterr().err.splitlines() if " us " in line]
    assert any(" attn_" in k for k in kernels)
    assert any(" attndx_" in k for k in kernels)
    assert not any("permute" in k or "24, 24]" in k for k in kernels)


def test_a_half_float_attention_computes_in_float32():
    r = np.random.default_rng(2)
    q, k, v = (kiln.tensor(r.standard_normal((1, 2, 20, 16))).bfloat16() for _ in range(3))
    got = kiln.compile(F.scaled_dot_product_attention)(q, k, v)
    want = F.scaled_dot_product_attention(q.float(), k.float(), v.float())
    assert got.dtype is kiln.bfloat16
    np.testing.assert_allclose(got.float(), want, rtol=0, atol=2e-2)


ROWS = [  # n, heads, groups, length, keys, features, values
    (1, 1, 1, 1, 1, 1, 1), (2, 4, 2, 3, 7, 8, 5), (2, 3, 1, 10, 10, 17, 33), (1, 2, 2, 1, 100, 64, 64),
    (4, 8, 8, 15, 90, 64, 64), (3, 2, 2, 20, 9, 16, 16),
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_few_queries_of_any_size_and_strides(isa, dtype, causal, packed):
    with context(cpu_isa=isa.name):
        for n, heads, groups, length, keys, features, values in ROWS:
            if packed:
                keys, values = length, features
            p = Problem(n, heads, groups, length, keys, features, values, dtype, None, causal, packed=packed)  # fmt: skip
            arrays = p.call[:3]
            shapes, steps = (tuple(getattr(x, w) for x in arrays) for w in ("shape", "strides"))
            run_rows = attention_rows.prepared(shapes, steps, causal, p.scale, p.q.dtype)
            for got, want in zip(run_rows(*arrays), op.op.reference(*p.call), strict=True):
                assert (got.dtype, got.shape) == (want.dtype, want.shape)
                np.testing.assert_allclose(got, want, TOLERANCE[dtype], TOLERANCE[dtype])


def test_few_queries_are_attended_to_by_that_kernel_where_it_can(monkeypatch):
    calls = []
    prepared = attention_rows.prepared
    monkeypatch.setattr(attention_rows, "prepared", lambda *a: calls.append(a) or prepared(*a))
    x = kiln.randn(1, 2, 3, 29)
    gaps = kiln.randn(1, 2, 3, 58)[..., ::2]  # the last dimension is not dense
    mask = kiln.ones(3, 3, dtype=kiln.bool)
    for tensors, kwargs, taken in (
        ((x, x, x), {}, 1), ((x, x, x), {"is_causal": True}, 1), ((gaps, x, x), {}, 0), ((x, x, x), {"attn_mask": mask}, 0),
        ((x.half(),) * 3, {}, 0), ((x[:, :, :0], x, x), {}, 0), ((x.double(),) * 3, {"scale": 1.5}, 1),
    ):  # fmt: skip
        calls.clear()
        y = F.scaled_dot_product_attention(*tensors, **kwargs)
        assert len(calls) == taken
        with context(eager="reference"):
            want = F.scaled_dot_product_attention(*tensors, **kwargs)
        bound = 2e-3 if y.dtype is kiln.float16 else 1e-5
        np.testing.assert_allclose(y.numpy(), want.numpy(), bound, bound)
