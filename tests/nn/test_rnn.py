"""Recurrent layers: against PyTorch, eager and compiled; packed sequences; training."""

from __future__ import annotations

import numpy as np
import pytest
from tests.turns import in_turn

import kiln
import kiln.nn.functional as F
from kiln import nn
from kiln.config import context
from kiln.nn import _recurrent
from kiln.nn.utils import rnn

KINDS = ("RNN", "LSTM", "GRU")
VARIANTS = {
    "plain": {},
    "deep": {"num_layers": 2, "bidirectional": True},
    "batch_first": {"batch_first": True, "bias": False},
    "reverse": {"bidirectional": True, "batch_first": True},
}


def rand(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def states(kind, count, batch, size, proj=0):
    h = rand(count, batch, proj or size, seed=7) if batch else rand(count, proj or size, seed=7)
    c = rand(count, batch, size, seed=8) if batch else rand(count, size, seed=8)
    return (h, c) if kind == "LSTM" else (h,)


def run(m, x, hx, wrap, unpacked=lambda y: y):
    """Outputs, states, and the gradients of all inputs and parameters."""
    m.zero_grad()
    x, hx = wrap(x), [wrap(s) for s in hx]
    y, last = m(x, (tuple(hx) if len(hx) == 2 else hx[0]) if hx else None)
    last = last if isinstance(last, tuple) else (last,)
    loss = (y * y).sum() + sum((s * s * s).sum() for s in last)
    loss.backward()
    return [y, *last, *(t.grad for t in (x, *hx)), *(p.grad for p in m.parameters())]


def leaf(a):
    return kiln.tensor(a).requires_grad_()


def close(a, b):
    assert len(a) == len(b)
    for p, q in zip(a, b, strict=True):
        p, q = (t.detach().numpy() for t in (p, q))
        assert p.shape == q.shape
        np.testing.assert_allclose(p, q, atol=1e-10)


def both(kind, *args, **kwargs):
    """PyTorch's module and ours with its parameters, in float64."""
    torch = pytest.importorskip("torch")
    theirs = getattr(torch.nn, kind)(*args, **kwargs).double()
    ours = getattr(nn, kind)(*args, **kwargs).double()
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict({k: kiln.tensor(v.numpy()) for k, v in theirs.state_dict().items()})
    return theirs, ours


def compiled(m):
    fn = kiln.compile(lambda x, hx: run(m, x, hx, lambda t: t))

    def call(x, hx):
        # gradients of arguments come back in the list
        return fn(leaf(x), [leaf(s) for s in hx])

    return call


@pytest.mark.peers
@pytest.mark.parametrize("given", [False, True], ids=["zeros", "hx"])
@pytest.mark.parametrize("variant", [*VARIANTS, "proj"])
@pytest.mark.parametrize("kind", KINDS)
def test_as_in_pytorch(kind, variant, given):
    torch = pytest.importorskip("torch")
    if variant == "proj" and kind != "LSTM":
        pytest.skip("only an LSTM projects")
    kw = {"proj_size": 3, "num_layers": 2} if variant == "proj" else VARIANTS[variant]
    theirs, ours = both(kind, 5, 6, **kw)
    x = rand(3, 4, 5)
    count = kw.get("num_layers", 1) * (1 + kw.get("bidirectional", False))
    hx = states(kind, count, 3 if kw.get("batch_first") else 4, 6, kw.get("proj_size", 0))
    hx = hx if given else ()
    want = run(theirs, x, hx, lambda a: torch.tensor(a, requires_grad=True))
    close(run(ours, x, hx, leaf), want)
    call = compiled(ours)
    for _ in range(2):
        close(call(x, hx), want)


@pytest.mark.peers
@pytest.mark.parametrize("kind", KINDS)
def test_unbatched(kind):
    torch = pytest.importorskip("torch")
    theirs, ours = both(kind, 5, 6, bidirectional=True)
    x, hx = rand(4, 5), states(kind, 2, 0, 6)
    want = run(theirs, x, hx, lambda a: torch.tensor(a, requires_grad=True))
    close(run(ours, x, hx, leaf), want)
    close(compiled(ours)(x, hx), want)


@pytest.mark.peers
@pytest.mark.parametrize("kind", ["RNNCell", "LSTMCell", "GRUCell"])
@pytest.mark.parametrize("single", [False, True])
def test_cells(kind, single):
    torch = pytest.importorskip("torch")
    theirs, ours = both(kind, 5, 6)
    shape = () if single else (3,)
    x, hx = rand(*shape, 5), [rand(*shape, 6, seed=k) for k in (1, 2)]
    for given in (False, True):

        def call(m, t, given=given):
            h = [t(a) for a in hx[: 2 if kind == "LSTMCell" else 1]]
            out = m(t(x), (tuple(h) if len(h) == 2 else h[0]) if given else None)
            return list(out) if isinstance(out, tuple) else [out]

        want = call(theirs, torch.tensor)
        close(call(ours, kiln.tensor), want)
        close(kiln.compile(lambda call=call: call(ours, kiln.tensor))(), want)


@pytest.mark.peers
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ordered", [True, False])
def test_packed_sequences(kind, ordered):
    torch = pytest.importorskip("torch")
    theirs, ours = both(kind, 5, 6, num_layers=2, bidirectional=True)
    lengths = [4, 3, 3, 1] if ordered else [3, 1, 4, 3]
    x, hx = rand(4, 4, 5), states(kind, 4, 4, 6)

    def run_packed(m, t, utils):
        m.zero_grad()
        a, s = t(x), [t(h) for h in hx]
        packed = utils.pack_padded_sequence(a, lengths, enforce_sorted=ordered)
        y, last = m(packed, tuple(s) if len(s) == 2 else s[0])
        y, n = utils.pad_packed_sequence(y, batch_first=True, padding_value=0.5)
        assert n.tolist() == lengths
        last = last if isinstance(last, tuple) else (last,)
        ((y * y).sum() + sum((q * q).sum() for q in last)).backward()
        return [y, *last, a.grad, *(q.grad for q in s), *(p.grad for p in m.parameters())]

    want = run_packed(theirs, lambda a: torch.tensor(a, requires_grad=True), torch.nn.utils.rnn)
    close(run_packed(ours, leaf, rnn), want)
    close(kiln.compile(lambda: run_packed_inside(ours, x, hx, lengths, ordered))(), want[:1])


def run_packed_inside(m, x, hx, lengths, ordered):
    s = [kiln.tensor(h) for h in hx]
    packed = rnn.pack_padded_sequence(kiln.tensor(x), lengths, enforce_sorted=ordered)
    y, _ = m(packed, tuple(s) if len(s) == 2 else s[0])
    return [rnn.pad_packed_sequence(y, batch_first=True, padding_value=0.5)[0]]


@pytest.mark.peers
def test_packing_as_in_pytorch():
    torch = pytest.importorskip("torch")
    seqs = [rand(n, 2, seed=n) for n in (2, 4, 3)]
    for t, utils in ((torch.tensor, torch.nn.utils.rnn), (kiln.tensor, rnn)):
        p = utils.pack_sequence([t(s) for s in seqs], enforce_sorted=False)
        found = [p.data, p.batch_sizes, p.sorted_indices, p.unsorted_indices]
        found += [
            utils.pad_sequence([t(s) for s in seqs], True, 9.0, side) for side in ("left", "right")
        ]
        found += utils.unpack_sequence(p)
        found += utils.pad_packed_sequence(p, total_length=6)
        if t is torch.tensor:
            want = found
    close(found, want)
    with pytest.raises(RuntimeError, match="sorted"):
        rnn.pack_sequence([kiln.tensor(s) for s in seqs])
    with pytest.raises(RuntimeError, match="greater than 0"):
        rnn.pack_padded_sequence(kiln.zeros(3, 2, 1), [1, 0])
    with pytest.raises(ValueError, match="total_length"):
        rnn.pad_packed_sequence(p, total_length=1)


class Classifier(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.body = getattr(nn, kind)(3, 8, num_layers=2, dropout=0.3)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        y, _ = self.body(x)
        return self.head(y[-1])


@in_turn("kind", ["GRU", "RNN"], always=["LSTM"])
def test_training_compiled_is_training_eager(kind):
    x, y = kiln.tensor(rand(6, 5, 3)).float(), kiln.tensor([0, 1, 1, 0, 1])
    losses = []
    for wrap in (lambda f: f, kiln.compile):
        kiln.manual_seed(0)
        m = Classifier(kind)
        opt = kiln.optim.Adam(m.parameters(), lr=0.02)

        def step(x, y, m=m, opt=opt):
            opt.zero_grad()
            loss = F.cross_entropy(m(x), y)
            loss.backward()
            opt.step()
            return loss

        fn = wrap(step)
        losses.append([fn(x, y).item() for _ in range(6)])
        m.eval()
        a, b = m(x), kiln.compile(m)(x)
        np.testing.assert_allclose(a.numpy(force=True), b.numpy(force=True), atol=1e-5)
    np.testing.assert_allclose(losses[0], losses[1], rtol=2e-4)
    assert losses[0][-1] < losses[0][0]


def test_first_values():
    m = nn.LSTM(3, 16)
    assert all(p.abs().max().item() <= 0.25 for p in m.parameters())
    assert max(p.abs().max().item() for p in m.parameters()) > 0.2
    assert m.flatten_parameters() is None
    assert [len(w) for w in m.all_weights] == [4]


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: nn.LSTM(0, 3), ValueError),
        (lambda: nn.LSTM(3, 3, proj_size=3), ValueError),
        (lambda: nn.GRU(3, 3, proj_size=1), ValueError),
        (lambda: nn.GRU(3, 3, dropout=2), ValueError),
        (lambda: nn.RNN(3, 3, nonlinearity="gelu"), ValueError),
        (lambda: nn.RNN(3, 3, bias=1), TypeError),
        (lambda: nn.RNN(3.0, 3), TypeError),
        (lambda: nn.LSTM(3, 4)(kiln.zeros(2, 2, 5)), RuntimeError),
        (lambda: nn.LSTM(3, 4)(kiln.zeros(3)), ValueError),
        (lambda: nn.LSTM(3, 4)(kiln.zeros(2, 3).double()), ValueError),
        (lambda: nn.GRU(3, 4)(kiln.zeros(2, 2, 3), kiln.zeros(1, 3, 4)), RuntimeError),
        (lambda: nn.GRU(3, 4)(kiln.zeros(2, 2, 3), kiln.zeros(2, 4)), RuntimeError),
        (lambda: nn.GRUCell(3, 4)(kiln.zeros(2, 5)), RuntimeError),
        (lambda: nn.GRUCell(3, 4)(kiln.zeros(2, 2, 3)), ValueError),
    ],
)  # fmt: skip
def test_errors(make, error):
    with pytest.raises(error):
        make()


def test_dropout_without_a_second_layer_warns():
    with pytest.warns(UserWarning, match="num_layers greater than 1"):
        nn.LSTM(3, 4, dropout=0.5)


def native_and_by_steps(kind, options, lengths, second=False):
    """Results and gradients as blocks of steps run natively, and step by step."""
    kiln.manual_seed(0)
    m = getattr(nn, kind)(6, 64, **options)
    x = kiln.randn(23, 4, 6, requires_grad=True)
    found = []
    for eager in ("cpu", "reference"):
        with context(eager=eager):
            given = nn.utils.rnn.pack_padded_sequence(x, lengths) if lengths else x
            y, last = m(given)
            y = y.data if lengths else y
            states = last if isinstance(last, tuple) else (last,)
            loss = sum((t * t).sum() for t in (y, *states))
            grads = kiln.autograd.grad(loss, [x, *m.parameters()], create_graph=second)
            if second:
                sums = sum((g**2).sum() for g in grads)
                grads += kiln.autograd.grad(sums, [x, m.weight_hh_l0])
            found.append([y, *states, *grads])
    return found


@pytest.mark.parametrize(
    ("kind", "options", "lengths", "second"),
    [
        ("LSTM", {}, None, False),
        ("LSTM", {"bidirectional": True, "num_layers": 2, "proj_size": 48}, None, False),
        ("GRU", {"bidirectional": True, "bias": False}, [23, 17, 16, 2], False),
        ("RNN", {"nonlinearity": "relu"}, [20, 19, 3, 1], False),
        ("GRU", {}, None, True),
    ],
)
def test_blocks_of_steps_are_the_steps(kind, options, lengths, second):
    for native, by_steps in zip(*native_and_by_steps(kind, options, lengths, second), strict=True):
        scale = float(by_steps.abs().max())
        assert float((native - by_steps).abs().max()) < 2e-5 * max(scale, 1.0)


def test_eager_sequences_of_new_lengths_compile_nothing():
    m = nn.LSTM(4, 64)

    def programs():
        return _recurrent._program.cache_info().misses

    for steps in (16, 21):
        m(kiln.randn(steps, 4, 4))[0].sum().backward()
    known = programs()
    for steps in range(17, 64, 5):
        m(kiln.randn(steps, 4, 4))[0].sum().backward()
    assert programs() == known


@pytest.mark.peers
@pytest.mark.parametrize("kind", KINDS)
def test_autocast_as_in_pytorch(kind):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: extra [peers]")
    kiln.manual_seed(0)
    ours, theirs = getattr(nn, kind)(4, 8), getattr(torch.nn, kind)(4, 8)
    theirs.load_state_dict({k: torch.from_numpy(v.numpy()) for k, v in ours.state_dict().items()})
    x = rand(5, 3, 4).astype("f4")
    with kiln.autocast("cpu", dtype=kiln.bfloat16):
        y = ours(kiln.tensor(x))[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        due = theirs(torch.tensor(x))[0]
    assert y.dtype.name == str(due.dtype).removeprefix("torch.")
    np.testing.assert_allclose(y.float().detach().numpy(), due.float().detach().numpy(), atol=2e-2)
    y.float().sum().backward()
    assert ours.weight_hh_l0.grad.dtype is kiln.float32


@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell"])
def test_steps_of_large_cells_run_as_one(kind):
    """The gates of large batches are one Program: results and both gradients are those of its ops."""
    kiln.manual_seed(0)
    cell = getattr(nn, kind)(3, 32).double()
    x = kiln.randn(64, 3, dtype=kiln.float64, requires_grad=True)
    found = []
    for eager in ("cpu", "reference"):
        with context(eager=eager):
            h = cell(x, cell(x, None))
            h = h[0] if isinstance(h, tuple) else h  # the other result has no gradient
            (g,) = kiln.autograd.grad(h.square().sum(), x, create_graph=True)
            found.append((h, g, *kiln.autograd.grad(g.square().sum(), list(cell.parameters()))))
    for a, b in zip(*found, strict=True):
        kiln.testing.assert_close(a, b)
