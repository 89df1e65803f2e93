"""Convolutions against NumPy in float64: all three directions, every parameter and level."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from unittest import mock

import llvmlite.binding as llvm
import numpy as np
import pytest
from harness import guarded, levels, margins_untouched, run, run_threaded, strides, unique
from tests.turns import in_turn

import kiln
from kiln.backends.cpu import winograd
from kiln.backends.cpu.conv import emit_backward_data, emit_backward_weight, emit_forward
from kiln.backends.cpu.conv_shape import Conv
from kiln.backends.cpu.isa import Isa
from kiln.backends.cpu.microkernel import Site
from kiln.backends.cpu.text import Text, load_scalar, load_vector, splat
from kiln.config import context
from kiln.errors import KilnError

DTYPES = {"f32": np.float32, "f64": np.float64}
rng = np.random.default_rng(0)


def windows(x: np.ndarray, c: Conv) -> np.ndarray:
    """Padded x as (n, ci, kh, kw, oh, ow), a writable view of the returned base."""
    (_pt, _), (_pl, _) = c.padding
    (sh, sw), (dh, dw), (kh, kw), (oh, ow) = c.stride, c.dilation, c.window, c.out
    n, ci, s0, s1, s2, s3 = *x.shape[:2], *x.strides
    return np.lib.stride_tricks.as_strided(
        x, (n, ci, kh, kw, oh, ow), (s0, s1, s2 * dh, s3 * dw, s2 * sh, s3 * sw)
    )


def reference(c: Conv, x, w, dy):
    """y, dx and dw in float64."""
    x, w, dy = (a.astype(np.float64) for a in (x, w, dy))
    padded = np.pad(x, ((0, 0), (0, 0), *c.padding))
    dpadded = np.zeros_like(padded)
    view, dview = windows(padded, c), windows(dpadded, c)
    y, dw = np.zeros_like(dy), np.zeros_like(w)
    for g in range(c.groups):
        i, o = slice(g * c.ci, (g + 1) * c.ci), slice(g * c.co, (g + 1) * c.co)
        y[:, o] = np.einsum("ncijhw,ocij->nohw", view[:, i], w[o], optimize=True)
        dw[o] = np.einsum("ncijhw,nohw->ocij", view[:, i], dy[:, o], optimize=True)
        part = np.einsum("nohw,ocij->ncijhw", dy[:, o], w[o], optimize=True)
        for ky in range(c.window[0]):
            for kx in range(c.window[1]):
                dview[:, i, ky, kx] += part[:, :, ky, kx]
    (pt, _), (pl, _) = c.padding
    return y, dpadded[:, :, pt : pt + c.image[0], pl : pl + c.image[1]], dw


def layout(shape, dtype, last: bool, make) -> np.ndarray:
    """An NCHW array that lies in memory as NCHW or as NHWC."""
    if not last:
        return make(shape)
    n, c, h, w = shape
    return make((n, h, w, c)).transpose(0, 3, 1, 2)


def precise(error: float, want: np.ndarray, dtype: str) -> bool:
    """Whether an error is within what sums of this dtype may have."""
    tolerance = 6e-6 if dtype == "f32" else 2e-14
    return error <= tolerance * max(1, np.abs(want).max(initial=0))


def check(isa, n, ci, image, co, window, stride=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1),
          groups=1, dtype="f32", last=False, w_last=False, kept=False, ways=(0, 1, 2)):  # fmt: skip
    """Forward (0), to the image (1) and to the weights (2) beside the reference."""

    def values(shape):
        return rng.standard_normal(shape).astype(DTYPES[dtype])

    def blank(shape):
        return guarded(shape, DTYPES[dtype])

    x = layout((n, ci, *image), dtype, last, values)
    w = layout((co, ci // groups, *window), dtype, w_last, values)
    c = Conv(n, ci, image, co, window, strides(x), strides(w), (0,) * 4, stride, padding,
             dilation, groups, dtype)  # fmt: skip
    dy = layout((n, co, *c.out), dtype, last, values)
    c = Conv(n, ci, image, co, window, strides(x), strides(w), strides(dy), stride, padding,
             dilation, groups, dtype, kept=kept)  # fmt: skip
    outs = [layout(dy.shape, dtype, last, blank), layout(x.shape, dtype, last, blank),
            layout(w.shape, dtype, w_last, blank)]  # fmt: skip
    cases = [(emit_forward, (x, w)), (emit_backward_data, (dy, w)), (emit_backward_weight, (x, dy))]
    wants = reference(c, x, w, dy)
    for way in ways:
        (make, inputs), out, want = cases[way], outs[way], wants[way]
        symbol = unique(make.__name__, c, isa.name)
        kernels, kept = [make(c, isa, symbol)], replace(c, kept=True)
        if make is emit_forward and make(kept, isa, symbol) != kernels[0]:
            kernels.append(make(kept, isa, f"{symbol}k"))
        for kernel in kernels:
            run(kernel, isa, [out, *inputs])
            error = np.abs(out - want).max(initial=0)
            assert precise(error, want, dtype), make.__name__
            assert margins_untouched(out)


ONE = ((1, 1), (1, 1))
CASES = {
    "digits": {"n": 3, "ci": 1, "image": (8, 8), "co": 32, "window": (3, 3)},
    "same": {"n": 2, "ci": 3, "image": (9, 11), "co": 5, "window": (3, 3), "padding": ONE},
    "odd window": {"n": 2, "ci": 4, "image": (9, 11), "co": 6, "window": (3, 2), "stride": (2, 2), "padding": ONE},
    "all at once": {"n": 2, "ci": 4, "image": (12, 13), "co": 6, "window": (3, 3), "stride": (1, 2),
                        "padding": ((2, 1), (0, 3)), "dilation": (2, 1), "groups": 2},
    "dilated": {"n": 1, "ci": 2, "image": (12, 13), "co": 3, "window": (3, 3), "dilation": (3, 2)},
    "1x1": {"n": 2, "ci": 4, "image": (7, 7), "co": 8, "window": (1, 1)},
    "1x1 chunks": {"n": 2, "ci": 70, "image": (31, 35), "co": 45, "window": (1, 1)},
    "1x1 groups": {"n": 3, "ci": 12, "image": (9, 21), "co": 30, "window": (1, 1), "groups": 3},
    "wide stride": {"n": 9, "ci": 20, "image": (17, 19), "co": 37, "window": (3, 3), "stride": (2, 2), "padding": ONE},
    "wide groups": {"n": 2, "ci": 40, "image": (12, 37), "co": 48, "window": (3, 3), "stride": (2, 1),
                    "padding": ((1, 2), (0, 2)), "dilation": (1, 2), "groups": 2},
    "thirds": {"n": 2, "ci": 6, "image": (17, 40), "co": 10, "window": (3, 5), "stride": (3, 3), "padding": ONE},
    "1x1 stride": {"n": 2, "ci": 4, "image": (7, 7), "co": 8, "window": (1, 1), "stride": (2, 2)},
    "depthwise": {"n": 1, "ci": 6, "image": (5, 5), "co": 6, "window": (3, 3), "padding": ONE, "groups": 6},
    "depthwise twice": {"n": 2, "ci": 5, "image": (19, 21), "co": 10, "window": (3, 2), "stride": (2, 2),
                        "padding": ((1, 0), (2, 1)), "dilation": (1, 2), "groups": 5},
    "depthwise stride": {"n": 3, "ci": 37, "image": (9, 12), "co": 37, "window": (3, 3), "stride": (2, 1), "padding": ONE,
                             "dilation": (1, 2), "groups": 37},
    "grouped": {"n": 2, "ci": 6, "image": (5, 9), "co": 9, "window": (3, 3), "padding": ONE, "groups": 3},
    "5x5": {"n": 2, "ci": 3, "image": (20, 33), "co": 7, "window": (5, 5), "padding": ((2, 2), (2, 2))},
    "7x7 stride": {"n": 1, "ci": 3, "image": (20, 20), "co": 18, "window": (7, 7), "stride": (2, 2),
                       "padding": ((3, 3), (3, 3))},
    "1-d": {"n": 2, "ci": 3, "image": (1, 50), "co": 4, "window": (1, 7), "padding": ((0, 0), (3, 3))},
    "deep": {"n": 2, "ci": 70, "image": (7, 7), "co": 40, "window": (3, 3), "padding": ONE},
    "many tasks": {"n": 5, "ci": 16, "image": (16, 16), "co": 24, "window": (3, 3), "padding": ONE},
    "mostly padding": {"n": 1, "ci": 2, "image": (2, 2), "co": 3, "window": (3, 3), "padding": ((3, 3), (2, 4))},
    "to one pixel": {"n": 2, "ci": 3, "image": (4, 4), "co": 5, "window": (4, 4)},
    "left over": {"n": 1, "ci": 2, "image": (8, 9), "co": 3, "window": (2, 2), "stride": (3, 4)},
    "apart": {"n": 1, "ci": 2, "image": (9, 9), "co": 3, "window": (2, 2), "stride": (3, 3)},
    "small images": {"n": 5, "ci": 20, "image": (2, 2), "co": 70, "window": (3, 3), "padding": ONE},
    "small stride": {"n": 7, "ci": 18, "image": (4, 5), "co": 35, "window": (3, 2), "stride": (2, 2), "padding": ((1, 0), (0, 2)),
                         "dilation": (1, 2)},
    "single pixels": {"n": 9, "ci": 19, "image": (3, 3), "co": 33, "window": (3, 3)},
    "parts of a line": {"n": 1, "ci": 70, "image": (23, 31), "co": 53, "window": (1, 1)},
    "parts of lines": {"n": 3, "ci": 40, "image": (13, 17), "co": 150, "window": (1, 1)},
    "shared padding": {"n": 1, "ci": 30, "image": (13, 12), "co": 150, "window": (3, 3), "stride": (2, 2), "padding": ONE},
    "shared parts": {"n": 2, "ci": 242, "image": (9, 8), "co": 99, "window": (3, 3), "stride": (1, 2), "padding": ONE},
    "kept": {"n": 1, "ci": 130, "image": (7, 7), "co": 140, "window": (1, 1), "kept": True},
    "kept stride": {"n": 2, "ci": 130, "image": (9, 9), "co": 140, "window": (1, 1), "stride": (2, 2), "kept": True},
    "kept parts": {"n": 1, "ci": 242, "image": (7, 7), "co": 70, "window": (3, 3), "padding": ONE, "kept": True},
    "no images": {"n": 0, "ci": 2, "image": (5, 5), "co": 3, "window": (3, 3)},
}  # fmt: skip


WINOGRAD = {
    "valid": {"n": 2, "ci": 32, "image": (14, 18), "co": 48},
    "same": {"n": 3, "ci": 35, "image": (15, 13), "co": 50, "padding": ONE},
    "wide padding": {"n": 2, "ci": 40, "image": (9, 21), "co": 32, "padding": ((3, 0), (0, 4))},
    "several images": {"n": 21, "ci": 48, "image": (8, 6), "co": 33, "padding": ONE},
    "many channels": {"n": 2, "ci": 160, "image": (18, 17), "co": 147, "padding": ONE},
    "parts of points": {"n": 3, "ci": 250, "image": (9, 10), "co": 260, "padding": ONE},
    "rows of points": {"n": 2, "ci": 340, "image": (6, 7), "co": 350, "padding": ONE},
    "few tiles": {"n": 1, "ci": 131, "image": (14, 13), "co": 136, "padding": ONE, "kept": True},
    "many blocks": {"n": 2, "ci": 64, "image": (50, 37), "co": 96, "padding": ONE},
}


WAYS = [(0,), (1,), (2,)]


@in_turn("isa,last,ways", list(itertools.product(levels(), (False, True), WAYS)), name=WINOGRAD)
def test_winograd(isa, name, last, ways):
    case = {**WINOGRAD[name], "window": (3, 3)}
    with mock.patch.object(winograd, "fits", winograd.possible):
        check(isa, **case, last=last, ways=ways)


def test_winograd_is_chosen_where_allowed():
    c = Conv(2, 32, (14, 18), 48, (3, 3), (8064, 252, 18, 1), (288, 9, 3, 1), (9216, 192, 16, 1))
    assert winograd.fits(c)
    with context(float32_matmul_precision="highest"):
        assert not winograd.fits(c)
    assert not winograd.fits(replace(c, dtype="f64"))
    assert not winograd.fits(replace(c, n=1, image=(4, 4)))


def test_kept_weights_are_transformed_for_fewer_tiles():
    x, y = (256 * 14 * 14, 1, 256 * 14, 256), (256 * 14 * 14, 1, 256 * 14, 256)
    c = Conv(1, 256, (14, 14), 256, (3, 3), x, (2304, 9, 3, 1), y, padding=ONE)
    assert winograd.fits(replace(c, kept=True))
    assert not winograd.fits(c)


@pytest.mark.parametrize(
    ("ci", "co", "size", "window"), [(256, 64, 56, 1), (1024, 256, 14, 1), (512, 512, 7, 3)]
)
def test_one_image_is_work_for_many_threads(ci, co, size, window):
    half = window // 2
    c = Conv(
        1, ci, (size, size), co, (window, window), (ci * size**2, 1, size * ci, ci),
        (ci * window**2, window**2, window, 1), (co * size**2, 1, size * co, co),
        padding=((half, half), (half, half)), kept=True,
    )  # fmt: skip
    work = emit_forward(c, levels()[-1], "many").phases()[-1]
    assert work.ntasks >= 8


@pytest.mark.parametrize("offset", [0, 5])
def test_winograd_error_is_as_documented(offset):
    shapes = (4, 64, 28, 28), (64, 64, 3, 3)
    x, w = (rng.standard_normal(s).astype(np.float32) for s in shapes)
    x += offset
    out = np.zeros((4, 64, 26, 26), np.float32)
    c = Conv(4, 64, (28, 28), 64, (3, 3), strides(x), strides(w), strides(out))
    isa = levels()[-1]
    assert winograd.fits(c)
    run(emit_forward(c, isa, unique("rms", c, isa.name)), isa, [out, x, w])
    want = reference(c, x, w, out)[0]
    assert np.sqrt(np.mean((out - want) ** 2) / np.mean(want**2)) < 2e-6


LEVELS_AND_WAYS = list(itertools.product(levels(), WAYS))


@in_turn("isa,ways", list(itertools.product(levels(), [(0, 1), (0, 2)])), name=CASES)
def test_against_numpy(isa, ways, name):
    check(isa, **CASES[name], ways=ways)


@in_turn(
    "isa,ways",
    LEVELS_AND_WAYS,
    name=[
        "same",
        "all at once",
        "grouped",
        "1x1",
        "deep",
        "depthwise",
        "small stride",
        "wide stride",
        "1x1 groups",
    ],
)
def test_f64(isa, ways, name):
    check(isa, **CASES[name], dtype="f64", ways=ways)


@in_turn(
    "isa,ways",
    LEVELS_AND_WAYS,
    name=[
        "same",
        "grouped",
        "1x1",
        "odd window",
        "depthwise",
        "depthwise twice",
        "depthwise stride",
        "all at once",
        "7x7 stride",
        "1x1 stride",
        "1-d",
        "dilated",
        "left over",
        "apart",
        "5x5",
        "small images",
        "small stride",
        "wide stride",
        "wide groups",
        "1x1 chunks",
        "1x1 groups",
    ],
)
def test_channels_last(isa, ways, name):
    check(isa, **CASES[name], last=True, ways=ways)


@in_turn("isa,ways", LEVELS_AND_WAYS, name=["same", "grouped", "depthwise twice", "small stride"])
def test_weights_in_another_layout(isa, ways, name):
    check(isa, **CASES[name], w_last=True, ways=ways)


@dataclass(frozen=True)
class Bias:
    """+ bias[channel]"""

    last: bool = False
    heavy: bool = False

    def emit(self, b: Text, site: Site) -> str:
        if self.last:
            place = b.at(site.extra(b, 0), site.col, 4)
            values = load_vector(b, place, "f32", site.lanes, site.mask)
            return b.op(f"fadd {site.vtype} {site.value}, {values}")
        scalar = load_scalar(b, b.at(site.extra(b, 0), site.row, 4), "f32")
        return b.op(f"fadd {site.vtype} {site.value}, {splat(b, scalar, site.element, site.lanes)}")


EPILOGUES = {
    "plain": {"ci": 4, "image": (6, 7), "co": 6},
    "grouped": {"ci": 4, "image": (6, 7), "co": 6, "groups": 2},
    "small images": {"ci": 20, "image": (3, 4), "co": 37},
    "winograd": {"ci": 40, "image": (18, 15), "co": 37},
    "depthwise": {"ci": 37, "image": (7, 12), "co": 37, "groups": 37},
    "grouped wide": {"ci": 32, "image": (9, 19), "co": 52, "groups": 2},
    "grouped small images": {"n": 5, "ci": 8, "image": (4, 4), "co": 20, "groups": 2},
    "one pixel high": {"ci": 3, "image": (3, 30), "co": 24},
}


@in_turn(
    "isa,heavy,last",
    [(levels()[k % len(levels())], k % 2 == 0, k % 4 > 1) for k in range(4 * len(levels()))],
    name=EPILOGUES,
)
def test_epilogue_sees_channels(isa, name, heavy, last):
    case = {"groups": 1, "n": 2, **EPILOGUES[name]}
    n, ci, image, co, groups = (case[k] for k in ("n", "ci", "image", "co", "groups"))

    def values(shape):
        return rng.standard_normal(shape).astype(np.float32)

    x = layout((n, ci, *image), np.float32, last, values)
    w, bias = values((co, ci // groups, 3, 3)), values((co,))
    shape = (n, co, image[0] - 2, image[1] - 2)
    out = layout(shape, np.float32, last, lambda s: guarded(s, np.float32))
    c = Conv(n, ci, image, co, (3, 3), strides(x), strides(w), strides(out), groups=groups)
    symbol = unique("bias", c, heavy, isa.name)
    run(emit_forward(c, isa, symbol, Bias(c.channels_last, heavy)), isa, [out, x, w, bias])
    want = reference(c, x, w, out)[0] + bias[:, None, None]
    np.testing.assert_allclose(out, want, rtol=1e-4, atol=1e-4)
    assert margins_untouched(out)


FORMS = {
    "columns": {"n": 9, "ci": 3, "image": (32, 32), "co": 8, "window": (3, 3)},
    "joined": {"n": 9, "ci": 64, "image": (4, 4), "co": 96, "window": (3, 3), "padding": ONE},
    "pointwise": {"n": 9, "ci": 48, "image": (14, 14), "co": 70, "window": (1, 1)},
    "direct": {"n": 9, "ci": 32, "image": (14, 14), "co": 40, "window": (3, 3), "stride": (2, 2)},
    "winograd": {"n": 9, "ci": 40, "image": (14, 14), "co": 48, "window": (3, 3), "padding": ONE},
    "few tiles": {"n": 1, "ci": 144, "image": (14, 14), "co": 144, "window": (3, 3), "padding": ONE, "kept": True},
    "line": {"n": 2, "ci": 64, "image": (28, 28), "co": 96, "window": (1, 1)},
    "shared padding": {"n": 2, "ci": 96, "image": (14, 14), "co": 96, "window": (3, 3), "stride": (2, 2), "padding": ONE},
    "depthwise": {"n": 9, "ci": 64, "image": (28, 28), "co": 64, "window": (3, 3), "groups": 64},
    "grouped": {"n": 9, "ci": 32, "image": (14, 14), "co": 64, "window": (3, 3), "groups": 2},
}  # fmt: skip


@in_turn("last", (False, True), name=FORMS)
def test_same_bits_on_any_number_of_threads(name, last):
    case = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "groups": 1, **FORMS[name]}
    n, ci, image, co, window = (case.pop(k) for k in ("n", "ci", "image", "co", "window"))

    def values(shape):
        return rng.standard_normal(shape).astype(np.float32)

    x, w = (
        layout((n, ci, *image), "f32", last, values),
        values((co, ci // case["groups"], *window)),
    )
    c = Conv(n, ci, image, co, window, strides(x), strides(w), (0,) * 4, **case)
    dy = layout((n, co, *c.out), "f32", last, values)
    c = replace(c, y_strides=strides(dy))
    isa = levels()[-1]
    cases = [(emit_forward, dy, (x, w)), (emit_backward_data, x, (dy, w)),
             (emit_backward_weight, w, (x, dy))]  # fmt: skip
    for make, like, inputs in cases:
        kernel = make(c, isa, unique("threads", make.__name__, isa.name, c))
        assert max(phase.ntasks for phase in kernel.phases()) > 1
        results = []
        for count in (1, 2, 3):
            out = np.empty_like(like)
            run_threaded(kernel, isa, [out, *inputs], count)
            results.append(out.tobytes())
        assert len(set(results)) == 1


@in_turn(
    "last",
    (False, True),
    case=[*CASES.values(), *({**c, "window": (3, 3)} for c in WINOGRAD.values())],
)
def test_text_for_neon_is_valid(case, last):
    neon = Isa("neon", "aarch64-unknown-linux-gnu", "neoverse-n1", "", 16, 32, True)
    case = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1, **case}

    def place(c, h, w):
        return (c * h * w, 1, w * c, c) if last else (c * h * w, h * w, w, 1)

    n, ci, image, co, (kh, kw) = (case.pop(k) for k in ("n", "ci", "image", "co", "window"))
    depth = ci // case["groups"]
    c = Conv(
        n,
        ci,
        image,
        co,
        (kh, kw),
        place(ci, *image),
        (depth * kh * kw, kh * kw, kw, 1),
        (0,) * 4,
        **case,
    )
    c = replace(c, y_strides=place(co, *c.out))
    for make in (emit_forward, emit_backward_data, emit_backward_weight):
        for phase in make(c, neon, "s").phases():
            llvm.parse_assembly(phase.text, context=llvm.create_context()).verify()


def test_impossible_convolutions_are_errors():
    c = Conv(1, 3, (5, 5), 4, (3, 3), (75, 25, 5, 1), (27, 9, 3, 1), (36, 9, 3, 1), groups=2)
    with pytest.raises(KilnError, match="groups"):
        emit_forward(c, levels()[-1], "s")


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("groups", [1, 6])
def test_repeated_weights_and_gradients_are_read_as_written_out(groups, compiled):
    def gradients(x, w, g):
        return kiln.autograd.grad(kiln.nn.functional.conv2d(x, w, groups=groups), (x, w), g)

    x = kiln.rand(2, 6, 36, 36, requires_grad=True)
    w = kiln.rand(1, 6 // groups, 5, 5).expand(6, -1, -1, -1).detach().requires_grad_()
    g = kiln.rand(2, 6, 1, 1).expand(2, 6, 32, 32)
    want = gradients(x, w.contiguous().detach().requires_grad_(), g.contiguous())
    for a, b in zip(
        (kiln.compile(gradients) if compiled else gradients)(x, w, g), want, strict=True
    ):
        assert kiln.allclose(a, b, 1e-4, 1e-3)
