"""Layers equal PyTorch's: names, repr, outputs and gradients."""

import numpy as np
import pytest

import kiln
from kiln import nn

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.peers

IMAGE, SERIES, VOLUME, FLAT = (2, 4, 6, 5), (2, 4, 7), (2, 4, 5, 4, 6), (3, 4)

LAYERS = [
    ("Identity(3, a=1)", FLAT),
    ("Linear(4, 3)", FLAT),
    ("Linear(4, 3, bias=False)", (2, 5, 4)),
    ("Flatten()", IMAGE),
    ("Flatten(0, 2)", IMAGE),
    ("Unflatten(1, (2, 2))", FLAT),
    ("Conv1d(4, 6, 3)", SERIES),
    ("Conv2d(4, 6, 3, stride=2, padding=1, groups=2)", IMAGE),
    ("Conv2d(4, 6, (3, 2), padding='same', dilation=2, bias=False)", IMAGE),
    ("Conv2d(4, 2, 3, padding=1, padding_mode='reflect')", IMAGE),
    ("Conv2d(4, 2, 3, padding='same', padding_mode='circular')", IMAGE),
    ("Conv3d(4, 2, 3, padding=(1, 0, 1))", VOLUME),
    ("ConvTranspose1d(4, 6, 3, stride=2)", SERIES),
    ("ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2)", IMAGE),
    ("ConvTranspose3d(4, 2, 2)", VOLUME),
    ("MaxPool1d(3)", SERIES),
    ("MaxPool2d(2)", IMAGE),
    ("MaxPool2d((3, 2), stride=(2, 1), padding=1, dilation=1, ceil_mode=True)", IMAGE),
    ("MaxPool3d(2)", VOLUME),
    ("AvgPool1d(3, 2)", SERIES),
    ("AvgPool2d(2, padding=1, count_include_pad=False)", IMAGE),
    ("AvgPool2d(2, ceil_mode=True, divisor_override=3)", IMAGE),
    ("AvgPool3d(2)", VOLUME),
    ("LPPool1d(2, 3)", SERIES),
    ("LPPool2d(3, 2)", IMAGE),
    ("AdaptiveAvgPool1d(3)", SERIES),
    ("AdaptiveAvgPool2d(1)", IMAGE),
    ("AdaptiveAvgPool2d((3, None))", IMAGE),
    ("AdaptiveAvgPool3d(2)", VOLUME),
    ("AdaptiveMaxPool1d(3)", SERIES),
    ("AdaptiveMaxPool2d(2)", IMAGE),
    ("BatchNorm1d(4)", FLAT),
    ("BatchNorm1d(4, momentum=None)", SERIES),
    ("BatchNorm2d(4, eps=1e-3, momentum=0.2)", IMAGE),
    ("BatchNorm2d(4, affine=False, track_running_stats=False)", IMAGE),
    ("BatchNorm3d(4)", VOLUME),
    ("InstanceNorm1d(4)", SERIES),
    ("InstanceNorm2d(4, affine=True, track_running_stats=True)", IMAGE),
    ("InstanceNorm3d(4)", VOLUME),
    ("LayerNorm(4)", FLAT),
    ("LayerNorm((6, 5), bias=False)", IMAGE),
    ("LayerNorm(4, elementwise_affine=False)", FLAT),
    ("RMSNorm(4)", FLAT),
    ("RMSNorm((6, 5), eps=1e-4)", IMAGE),
    ("GroupNorm(2, 4)", IMAGE),
    ("LocalResponseNorm(3)", IMAGE),
    ("Dropout(0.0)", FLAT),
    ("Dropout2d(0.0)", IMAGE),
    ("AlphaDropout(0.0)", FLAT),
    ("ReLU()", FLAT),
    ("ReLU6()", FLAT),
    ("LeakyReLU(0.2)", FLAT),
    ("PReLU(4)", FLAT),
    ("ELU(0.5)", FLAT),
    ("SELU()", FLAT),
    ("CELU(0.7)", FLAT),
    ("GELU()", FLAT),
    ("GELU('tanh')", FLAT),
    ("GLU(1)", FLAT),
    ("SiLU()", FLAT),
    ("Mish()", FLAT),
    ("Sigmoid()", FLAT),
    ("Tanh()", FLAT),
    ("Softplus(2, 10)", FLAT),
    ("Softsign()", FLAT),
    ("Softshrink(0.3)", FLAT),
    ("Hardshrink(0.3)", FLAT),
    ("Hardtanh(-0.4, 0.5)", FLAT),
    ("Hardsigmoid()", FLAT),
    ("Hardswish()", FLAT),
    ("LogSigmoid()", FLAT),
    ("Tanhshrink()", FLAT),
    ("Threshold(0.1, 2.0)", FLAT),
    ("Softmax(dim=1)", FLAT),
    ("LogSoftmax(dim=-1)", FLAT),
    ("Softmin(dim=0)", FLAT),
    ("Softmax2d()", IMAGE),
    ("ZeroPad1d(2)", SERIES),
    ("ZeroPad2d((1, 2, 0, 1))", IMAGE),
    ("ConstantPad2d(1, 3.5)", IMAGE),
    ("ReflectionPad1d(2)", SERIES),
    ("ReflectionPad2d(1)", IMAGE),
    ("ReplicationPad2d((1, 2, 3, 4))", IMAGE),
    ("ReplicationPad3d(1)", VOLUME),
    ("CircularPad2d(2)", IMAGE),
    ("Upsample(scale_factor=2)", IMAGE),
    ("Upsample(size=(9, 7), mode='bilinear')", IMAGE),
    ("UpsamplingBilinear2d(scale_factor=2)", IMAGE),
    ("PixelShuffle(2)", IMAGE),
    ("PixelUnshuffle(2)", (2, 3, 6, 4)),
    ("Unfold(2, stride=2)", IMAGE),
    ("Fold((4, 5), 2)", (2, 8, 12)),
    ("LPPool3d(2, 2)", VOLUME),
    ("ChannelShuffle(2)", IMAGE),
    ("Conv1d(4, 4, 3, padding=2, dilation=2, groups=4, padding_mode='replicate')", SERIES),
    ("FeatureAlphaDropout(0.0)", IMAGE),
    ("BatchNorm2d(4, bias=False)", IMAGE),
    ("GroupNorm(4, 4, bias=False)", IMAGE),
    ("InstanceNorm1d(4, affine=True, bias=False)", SERIES),
    ("Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 2)))", FLAT),
    ("ModuleList([nn.Linear(2, 2), nn.Linear(2, 2), nn.ReLU()])", None),
    ("ModuleDict({'a': nn.Linear(2, 2), 'b': nn.ModuleDict()})", None),
    ("Embedding(5, 3, padding_idx=1, max_norm=2.0)", None),
    ("EmbeddingBag(5, 3, mode='sum')", None),
    ("Bilinear(3, 4, 5)", None),
    ("RReLU()", None),
    ("Dropout()", None),
    ("ReLU(inplace=True)", None),
    ("LazyLinear(3)", None),
    ("LazyConv2d(3, 2)", None),
    ("LazyBatchNorm2d()", None),
    ("CosineSimilarity()", None),
    ("CrossEntropyLoss(label_smoothing=0.1)", None),
]


def make(text):
    return eval(f"nn.{text}", {"nn": nn}), eval(f"nn.{text}", {"nn": torch.nn})


def close(a, b, tol=2e-5):
    np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=tol, atol=tol)


def copy_state(ours, theirs):
    r = np.random.default_rng(1)
    with torch.no_grad():
        for p in theirs.parameters():
            p.copy_(torch.tensor(r.normal(0.3, 0.5, tuple(p.shape))))
    ours.load_state_dict({k: kiln.tensor(v.numpy()) for k, v in theirs.state_dict().items()})


@pytest.mark.parametrize(("text", "shape"), LAYERS, ids=[t for t, _ in LAYERS])
def test_layer(text, shape):
    ours, theirs = make(text)
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    if shape is None:
        return
    assert [tuple(v.shape) for v in ours.state_dict().values()] == [
        tuple(v.shape) for v in theirs.state_dict().values()
    ]
    copy_state(ours, theirs)
    data = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    for mode in (True, False):
        ours.train(mode), theirs.train(mode)
        x, y = kiln.tensor(data, requires_grad=True), torch.tensor(data, requires_grad=True)
        a, b = ours(x), theirs(y)
        assert tuple(a.shape) == tuple(b.shape)
        close(a, b)
        (a * a).sum().backward(), (b * b).sum().backward()
        close(x.grad, y.grad, 2e-4)
        for (n, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), 1e-3, 1e-3, err_msg=n)
        for p, q in zip(ours.buffers(), theirs.buffers(), strict=True):
            close(p, q)


def test_fresh_weights_have_the_same_spread():
    kiln.manual_seed(0)
    torch.manual_seed(0)
    for text in ("Linear(200, 300)", "Conv2d(16, 32, 3)", "ConvTranspose2d(16, 32, 3)", "Embedding(300, 40)",
                 "Bilinear(20, 30, 40)"):  # fmt: skip
        ours, theirs = make(text)
        for (n, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            for stat in (np.std, np.min, np.max):
                a, b = stat(p.detach().numpy()), stat(q.detach().numpy())
                assert abs(a - b) < 0.25 * abs(b), (text, n, stat.__name__, a, b)


LOSSES = [
    ("L1Loss()", "real"), ("MSELoss(reduction='sum')", "real"), ("SmoothL1Loss(beta=0.5)", "real"),
    ("HuberLoss(delta=0.3)", "real"), ("CrossEntropyLoss()", "class"),
    ("CrossEntropyLoss(weight=tensor([1.0, 2, 3, 0.5]), ignore_index=2, label_smoothing=0.1)", "class"),
    ("NLLLoss(reduction='none')", "class"), ("BCELoss()", "unit"), ("BCEWithLogitsLoss(pos_weight=tensor([2.0]))", "binary"),
    ("KLDivLoss(reduction='batchmean')", "unit"), ("PoissonNLLLoss()", "unit"), ("SoftMarginLoss()", "sign"),
    ("HingeEmbeddingLoss()", "sign"), ("MultiMarginLoss()", "class"), ("MultiLabelSoftMarginLoss()", "binary"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "kind"), LOSSES, ids=[t for t, _ in LOSSES])
def test_loss(text, kind):
    r = np.random.default_rng(0)
    x = r.normal(size=(5, 4)).astype(np.float32)
    if text.startswith("BCELoss"):
        x = 1 / (1 + np.exp(-x))
    t = {
        "real": r.normal(size=(5, 4)), "class": r.integers(0, 4, 5), "unit": r.random((5, 4)),
        "binary": r.integers(0, 2, (5, 4)), "sign": r.choice([-1.0, 1.0], (5, 4)),
    }[kind]  # fmt: skip
    t = t if kind == "class" else t.astype(np.float32)
    out = []
    for lib in (kiln, torch):
        loss = eval(f"nn.{text}", {"nn": lib.nn, "tensor": lib.tensor})
        v = lib.tensor(x, requires_grad=True)
        y = loss(v, lib.tensor(t))
        y.sum().backward()
        out.append((repr(loss), y, v.grad))
    assert out[0][0] == out[1][0]
    close(out[0][1], out[1][1])
    close(out[0][2], out[1][2])


def test_more_losses():
    r = np.random.default_rng(0)
    a, b, c = (r.normal(size=(5, 4)).astype(np.float32) for _ in range(3))
    sign = r.choice([-1.0, 1.0], 5).astype(np.float32)
    out = []
    for lib in (kiln, torch):
        x, y, z, s = map(lib.tensor, (a, b, c, sign))
        n = lib.nn
        out.append([
            n.CosineEmbeddingLoss(margin=0.1)(x, y, s), n.MarginRankingLoss(0.2)(x[:, 0], y[:, 0], s),
            n.TripletMarginLoss(swap=True)(x, y, z), n.GaussianNLLLoss()(x, y, z * z),
            n.CosineSimilarity()(x, y), n.PairwiseDistance()(x, y),
        ])  # fmt: skip
    for x, y in zip(*out, strict=True):
        close(x, y)


def test_pooling_and_back():
    x = np.random.default_rng(0).normal(size=(2, 3, 6, 6)).astype(np.float32)
    out = []
    for lib in (kiln, torch):
        y, at = lib.nn.MaxPool2d(2, return_indices=True)(lib.tensor(x))
        z, at2 = lib.nn.AdaptiveMaxPool2d(2, return_indices=True)(lib.tensor(x))
        out.append([y, at, lib.nn.MaxUnpool2d(2)(y, at), z, at2])
    for a, b in zip(*out, strict=True):
        close(a, b)


def test_ctc():
    r = np.random.default_rng(0)
    x, t = r.normal(size=(8, 2, 5)).astype(np.float32), r.integers(1, 5, (2, 3))
    out = []
    for lib in (kiln, torch):
        v = lib.tensor(x, requires_grad=True)
        loss = lib.nn.CTCLoss()(v.log_softmax(2), lib.tensor(t), (8, 7), (3, 2))
        loss.backward()
        out.append([loss, v.grad])
    for a, b in zip(*out, strict=True):
        close(a, b)


def test_random_layers_keep_their_expectation():
    kiln.manual_seed(0)
    x = kiln.ones(200, 20, 6)
    for layer in (nn.Dropout1d(0.3), nn.Dropout(0.3)):
        assert abs(layer(x).mean().item() - 1) < 0.05
    y = nn.Dropout1d(0.5)(x)
    assert ((y == 0).all(-1) | (y != 0).all(-1)).all()
    z = nn.RReLU(0.1, 0.3)(-x)
    assert -0.3 <= z.min().item() < z.max().item() <= -0.1
    assert nn.RReLU(0.1, 0.3).eval()(-x)[0, 0, 0].item() == pytest.approx(-0.2)
    a = nn.AlphaDropout(0.2)(kiln.randn(20000))
    assert abs(a.mean().item()) < 0.05
    assert abs(a.std().item() - 1) < 0.05


def test_embedding():
    weight = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    at = np.array([[0, 2, 2], [5, 1, 0]])
    out = []
    for lib in (kiln, torch):
        m = lib.nn.Embedding.from_pretrained(lib.tensor(weight), freeze=False, padding_idx=0)
        y = m(lib.tensor(at))
        (y * y).sum().backward()
        bag = lib.nn.EmbeddingBag.from_pretrained(lib.tensor(weight), mode="mean")
        z = bag(lib.tensor(at.reshape(-1)), lib.tensor([0, 2, 2]))
        assert not bag.weight.requires_grad
        out.append((y, m.weight.grad, z))
    for x, y in zip(*out, strict=True):
        close(x, y)


@pytest.mark.parametrize("call", [
    "xavier_uniform_(w)", "xavier_normal_(w, 2.0)", "kaiming_uniform_(w, mode='fan_out')",
    "kaiming_normal_(w, nonlinearity='relu')", "trunc_normal_(w, 0.5, 2.0, 0.0, 1.5)", "uniform_(w, -3, 2)",
    "normal_(w, 1, 2)", "constant_(w, 3)", "ones_(w)", "zeros_(w)", "sparse_(w, 0.3)", "eye_(w)",
])  # fmt: skip
def test_init(call):
    stats = []
    for lib in (kiln, torch):
        lib.manual_seed(0)
        w = lib.zeros(80, 120)
        eval(f"init.{call}", {"init": lib.nn.init, "w": w})
        a = w.numpy()
        stats.append([a.mean(), a.std(), *np.quantile(a, [0.001, 0.2, 0.999]), (a == 0).mean()])
    np.testing.assert_allclose(*stats, rtol=0.2, atol=0.06)


def test_init_of_structure():
    for lib in (kiln, torch):
        w = lib.zeros(4, 6)
        lib.nn.init.orthogonal_(w, 2.0)
        np.testing.assert_allclose(w.numpy() @ w.numpy().T, 4 * np.eye(4), atol=1e-5)
    a, b = kiln.zeros(4, 2, 3), torch.zeros(4, 2, 3)
    nn.init.dirac_(a, 2), torch.nn.init.dirac_(b, 2)
    np.testing.assert_array_equal(a.numpy(), b.numpy())
    for name, param in (
        ("relu", None),
        ("tanh", None),
        ("leaky_relu", 0.2),
        ("selu", None),
        ("conv2d", None),
    ):
        assert nn.init.calculate_gain(name, param) == torch.nn.init.calculate_gain(name, param)


@pytest.mark.parametrize("norm", [2.0, 1.0, float("inf")])
def test_clip_grad_norm(norm):
    r = np.random.default_rng(0)
    grads = [r.normal(size=s).astype(np.float32) for s in ((3, 4), (5,), ())]
    out = []
    for lib in (kiln, torch):
        params = [lib.nn.Parameter(lib.zeros(g.shape)) for g in grads]
        for p, g in zip(params, grads, strict=True):
            p.grad = lib.tensor(g)
        total = lib.nn.utils.clip_grad_norm_(params, 1.5, norm)
        lib.nn.utils.clip_grad_value_(params, 0.4)
        out.append([total, *(p.grad for p in params)])
    for x, y in zip(*out, strict=True):
        close(x, y)
