"""Convolutions in compiled programs, of any number of dimensions and any float dtype: native, and as eager ones."""

import numpy as np
import pytest
from tests.turns import in_turn

import kiln
import kiln.nn.functional as F
from kiln import dtypes as dt
from kiln.backends.cpu import lower
from kiln.compile import pipeline
from kiln.config import context
from kiln.graph.node import Graph, input_node, make

# input, weight, and what conv_nd or conv_transpose_nd takes
CASES = {
    "valid": ((2, 3, 5, 6, 7), (4, 3, 3, 2, 3), {}),
    "same": ((2, 5, 4, 9, 11), (6, 5, 3, 3, 3), {"padding": "same"}),
    "same, even window": ((1, 3, 4, 5, 6), (4, 3, 2, 4, 3), {"padding": "same"}),
    "stride": ((2, 4, 9, 8, 7), (6, 4, 3, 3, 3), {"stride": 2, "padding": 1}),
    "each its own": ((2, 4, 9, 8, 7), (6, 4, 2, 3, 1), {"stride": (3, 1, 2), "padding": (1, 2, 0), "dilation": (2, 1, 3)}),
    "dilation": ((1, 3, 9, 7, 8), (5, 3, 3, 3, 3), {"dilation": (3, 2, 1), "padding": (2, 0, 1)}),
    "groups": ((2, 6, 5, 6, 7), (9, 2, 3, 3, 3), {"groups": 3, "padding": 1}),
    "depthwise": ((2, 5, 5, 6, 7), (5, 1, 3, 3, 3), {"groups": 5, "padding": 1}),
    "depthwise stride": ((2, 5, 7, 6, 7), (5, 1, 3, 2, 3), {"groups": 5, "stride": (2, 1, 2), "padding": (2, 0, 1)}),
    "depthwise wide padding": ((1, 4, 3, 4, 5), (4, 1, 2, 2, 2), {"groups": 4, "padding": 3}),
    "depthwise twice": ((2, 5, 5, 6, 7), (10, 1, 3, 3, 3), {"groups": 5}),
    "1x1x1": ((2, 5, 3, 4, 5), (7, 5, 1, 1, 1), {}),
    "1x1x1 stride": ((2, 5, 5, 4, 5), (7, 5, 1, 1, 1), {"stride": 2}),
    "1x3x3": ((2, 5, 3, 6, 5), (7, 5, 1, 3, 3), {"padding": (0, 1, 1)}),
    "3x1x1": ((2, 5, 7, 3, 5), (7, 5, 3, 1, 1), {"stride": (2, 1, 1), "padding": (1, 0, 0)}),
    "1x1x3": ((2, 5, 4, 3, 9), (7, 5, 1, 1, 3), {"padding": (0, 0, 1)}),
    "mostly padding": ((1, 2, 1, 2, 2), (3, 2, 3, 3, 3), {"padding": 4}),
    "many channels": ((2, 40, 5, 9, 10), (36, 40, 3, 3, 3), {"padding": 1}),
    "some channels": ((2, 12, 5, 9, 10), (36, 12, 3, 3, 3), {"padding": 1}),
    "left over": ((1, 2, 8, 9, 8), (3, 2, 2, 2, 2), {"stride": (3, 3, 4)}),
    "no images": ((0, 3, 5, 6, 7), (4, 3, 3, 2, 3), {}),
}  # fmt: skip
TRANSPOSED = {
    "plain": ((2, 4, 4, 3, 5), (4, 6, 3, 2, 3), {}),
    "doubled": ((2, 4, 3, 4, 5), (4, 6, 2, 2, 2), {"stride": 2}),
    "output padding": ((2, 4, 3, 4, 5), (4, 6, 3, 3, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
    "room for more windows": ((1, 4, 3, 3, 4), (4, 2, 3, 3, 3), {"dilation": 3, "output_padding": 2}),
    "groups": ((2, 6, 4, 3, 5), (6, 2, 3, 2, 3), {"groups": 3, "stride": (1, 2, 3)}),
    "depthwise": ((2, 6, 4, 3, 5), (6, 1, 3, 2, 3), {"groups": 6, "stride": (1, 2, 1)}),
}  # fmt: skip
TELLING = ("each its own", "depthwise stride", "1x3x3", "no images")
BIASED = {"each its own", "depthwise", "1x3x3", "many channels", "doubled"}


def values(shape, seed, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def step_of(conv, options):
    """The convolution in the middle of a program, with its gradients."""

    def step(x, w, *bias):
        y = conv(x.sin(), w, *bias, **options)
        grads = kiln.autograd.grad([(y * y.cos()).sum()], [x, w, *bias])
        return y.detach(), y.detach().exp(), *grads

    return step


def operands(name, xs, ws, options, transposed, dtype=np.float32):
    found = [values(xs, 1, dtype), values(ws, 2, dtype) / 4]
    if name in BIASED:
        channels = ws[1] * options.get("groups", 1) if transposed else ws[0]
        found.append(values((channels,), 3, dtype))
    return [kiln.tensor(a, requires_grad=True) for a in found]


def alike(got, want, tolerance):
    for a, b in zip(got, want, strict=True):
        a, b = a.detach().double().numpy(), b.detach().double().numpy()
        scale = max(1.0, np.abs(b).max(initial=0))
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * scale)


def check(name, transposed, layout, isa=""):
    xs, ws, options = (TRANSPOSED if transposed else CASES)[name]
    args = operands(name, xs, ws, options, transposed)
    step = step_of(F.conv_transpose3d if transposed else F.conv3d, options)
    try:
        with context(layout=layout, cpu_isa=isa):
            got = kiln.compile(step)(*args)
    except kiln.errors.KilnError as e:
        if "cpu_isa" in str(e):
            pytest.skip(f"this machine has no {isa}")
        raise
    alike(got, step(*args), 1e-4)


@in_turn(
    "name", [n for n in CASES if n not in TELLING], always=TELLING, layout=["row_major", "channels_last"]
)  # fmt: skip
def test_conv3d_is_eager(name, layout):
    check(name, False, layout)


@in_turn("name", TRANSPOSED, layout=["row_major", "channels_last", "auto"])
def test_conv_transpose3d_is_eager(name, layout):
    check(name, True, layout)


@in_turn(
    "name",
    ["many channels", "groups", "each its own", "depthwise stride", "some channels", "1x3x3"],
    isa=["avx2", "sse2"],
)
def test_conv3d_at_every_level(name, isa):
    check(name, False, "auto", isa)


@in_turn("name", ["each its own", "groups", "3x1x1"], always=["depthwise stride"])
def test_double_precision(name):
    xs, ws, options = CASES[name]
    args = operands(name, xs, ws, options, False, np.float64)
    step = step_of(F.conv3d, options)
    alike(kiln.compile(step)(*args), step(*args), 1e-11)


@in_turn("name", ["same", "stride", "depthwise", "1x1x1"], always=["groups"])
def test_operands_with_any_strides(name):
    xs, ws, options = CASES[name]
    options = {**options}

    def step(x, w):
        x, w = x.permute(4, 0, 1, 3, 2), w.flip(2).transpose(3, 4)
        y = F.conv3d(x, w, **options)
        return y, *kiln.autograd.grad([y.square().sum()], [x, w])

    n, c, d, h, w_ = xs
    out, per, kd, kh, kw = ws
    x = kiln.tensor(values((c, d, w_, h, n), 4), requires_grad=True)
    w = kiln.tensor(values((out, per, kd, kw, kh), 5), requires_grad=True)
    alike(kiln.compile(step)(x, w), step(x, w), 1e-4)


@in_turn("name", ["stride", "groups", "1x3x3"], always=["many channels", "depthwise"])
def test_the_same_bits_on_any_number_of_threads(name):
    xs, ws, options = CASES[name]
    args = operands(name, (xs[0], xs[1], *(2 * s for s in xs[2:])), ws, options, False)
    step, before = kiln.compile(step_of(F.conv3d, options)), kiln.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            kiln.set_num_threads(threads)
            found.append([t.numpy().copy() for t in step(*args)])
    finally:
        kiln.set_num_threads(before)
    for other in found[1:]:
        for a, b in zip(other, found[0], strict=True):
            assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("dtype", [dt.bfloat16, dt.float16], ids=str)
def test_half_floats_are_added_up_in_float32(dtype, rank):
    conv = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    x = kiln.tensor(np.abs(values((1, 300, *(4, 5, 3)[:rank]), 6))).to(dtype)
    w = kiln.tensor(np.abs(values((3, 300, *(3, 2, 2)[:rank]), 7))).to(dtype)
    want = conv(x.double(), w.double()).numpy()
    got = kiln.compile(lambda x, w: conv(x, w))(x, w)
    assert got.dtype is dtype
    # half a unit in the last place of the result; sums in bfloat16 would be off by ten times that
    unit = 2.0 ** (-8 if dtype is dt.bfloat16 else -11)
    assert np.all(np.abs(got.double().numpy() - want) <= 1.01 * unit * np.abs(want))


def nodes_of(xs, ws, dtype, rank, groups=1):
    """The graph of a convolution and its two gradients, as it is lowered."""
    by = (2,) * rank, (1,) * rank, (1,) * rank, groups
    x, w = input_node(0, xs, dtype), input_node(1, ws, dtype)
    y = make("convolution", (x, w, None, *by))
    outs = (y, make("conv_input_grad", (y, w, xs, *by)), make("conv_weight_grad", (y, x, ws, *by)))
    return pipeline.optimize(Graph((x, w), outs), lower.lowers).nodes()


@pytest.mark.parametrize("dtype", [dt.float32, dt.float64, dt.bfloat16, dt.float16], ids=str)
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_no_convolution_calls_the_host(rank, dtype, groups):
    xs, ws = (2, 4, 5, 6, 7)[: 2 + rank], (4, 4 // groups, 3, 2, 3)[: 2 + rank]
    assert not [n for n in nodes_of(xs, ws, dtype, rank, groups) if lower.is_host(n)]


def test_windows_of_single_elements_move_nothing():
    by = (1, 1, 1), (0, 0, 0), (1, 1, 1), 1
    x, w = input_node(0, (2, 4, 5, 6, 7), dt.float32), input_node(1, (8, 4, 1, 1, 1), dt.float32)
    y = make("convolution", (x, w, None, *by))
    names = [n.name for n in pipeline.optimize(Graph((x, w), (y,)), lower.lowers).nodes()]
    assert not {"windows", "permute"} & set(names)


def test_a_network_of_videos_in_both_orders(full):
    from kiln import nn

    kiln.manual_seed(0)
    model = nn.Sequential(
        nn.Conv3d(3, 16, 3, stride=(1, 2, 2), padding=1), nn.BatchNorm3d(16), nn.ReLU(),
        nn.Conv3d(16, 32, (1, 3, 3), padding=(0, 1, 1)), nn.ReLU(),
        nn.Conv3d(32, 32, (3, 1, 1), padding=(1, 0, 0)), nn.BatchNorm3d(32), nn.ReLU(), nn.MaxPool3d(2),
        nn.ConvTranspose3d(32, 8, 2, stride=2), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip
    x, y = kiln.tensor(values((2, 3, 6, 14, 12), 8)), kiln.tensor([1, 3])

    def step():
        model.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss.detach(), *(p.grad.clone() for p in model.parameters())

    want = step()
    for layout in ("auto", "row_major", "channels_last") if full else ("channels_last",):
        with context(layout=layout):
            alike(kiln.compile(step)(), want, 2e-4)
