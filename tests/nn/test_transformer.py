"""Multi-head attention and transformers: shapes, masks, state; PyTorch's numbers beside them."""

from __future__ import annotations

import numpy as np
import pytest
from tests.turns import in_turn

import kiln
from kiln import nn

r = np.random.default_rng(0)


def draw(*shape: int) -> np.ndarray:
    return r.standard_normal(shape).astype(np.float32)


def test_weights_are_averaged_per_head_or_left_out():
    m = nn.MultiheadAttention(8, 2, batch_first=True)
    q, k = kiln.tensor(draw(3, 4, 8)), kiln.tensor(draw(3, 5, 8))
    out, mean = m(q, k, k)
    _, each = m(q, k, k, average_attn_weights=False)
    alone, none = m(q, k, k, need_weights=False)
    assert out.shape == (3, 4, 8)
    assert each.shape == (3, 2, 4, 5)
    assert none is None
    np.testing.assert_allclose(mean.detach(), each.mean(1).detach(), atol=1e-6)
    np.testing.assert_allclose(each.sum(-1).detach(), np.ones((3, 2, 4)), atol=1e-5)
    np.testing.assert_allclose(alone.detach(), out.detach(), atol=1e-5)


def test_layouts_agree():
    m, n = nn.MultiheadAttention(8, 2), nn.MultiheadAttention(8, 2, batch_first=True)
    n.load_state_dict(m.state_dict())
    x = kiln.tensor(draw(4, 3, 8))
    y = x.transpose(0, 1)
    for need in (True, False):
        a, b = m(x, x, x, need_weights=need)[0], n(y, y, y, need_weights=need)[0]
        np.testing.assert_allclose(a.detach(), b.transpose(0, 1).detach(), atol=1e-6)
        one = m(x[:, 1], x[:, 1], x[:, 1], need_weights=need)[0]
        np.testing.assert_allclose(one.detach(), a[:, 1].detach(), atol=1e-6)


def test_padding_and_the_causal_mask_hide_what_they_say():
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True).eval()
    x = kiln.tensor(draw(2, 5, 8))
    changed = x.clone()
    changed[:, 3:] += 1
    pad = kiln.tensor([[False] * 3 + [True] * 2] * 2)
    a, b = (layer(y, src_key_padding_mask=pad)[:, :3] for y in (x, changed))
    np.testing.assert_array_equal(a.detach(), b.detach())
    mask = nn.Transformer.generate_square_subsequent_mask(5)
    for causal in (False, True):
        a, b = (layer(y, src_mask=mask, is_causal=causal)[:, :3] for y in (x, changed))
        np.testing.assert_array_equal(a.detach(), b.detach())


def test_dropout_acts_in_training_only():
    m = nn.MultiheadAttention(8, 2, dropout=0.5)
    x = kiln.tensor(draw(4, 3, 8))
    for need in (True, False):
        m.train()
        a, b = (m(x, x, x, need_weights=need)[0].detach().numpy() for _ in range(2))
        assert not np.array_equal(a, b)
        m.eval()
        a, b = (m(x, x, x, need_weights=need)[0].detach().numpy() for _ in range(2))
        np.testing.assert_array_equal(a, b)


def test_layers_of_a_stack_are_copies():
    layer = nn.TransformerEncoderLayer(8, 2, 16)
    stack = nn.TransformerEncoder(layer, 2, nn.LayerNorm(8))
    weights = [x.linear1.weight for x in stack.layers]
    assert weights[0] is not weights[1]
    assert weights[0] is not layer.linear1.weight
    np.testing.assert_array_equal(weights[0].detach(), weights[1].detach())


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: nn.MultiheadAttention(7, 2), AssertionError),
        (lambda: nn.MultiheadAttention(0, 2), ValueError),
        (lambda: nn.TransformerEncoderLayer(8, 2, activation="tanh"), RuntimeError),
        (lambda: nn.MultiheadAttention(8, 2)(*(kiln.zeros(3, 2, 6),) * 3), RuntimeError),
        (lambda: nn.MultiheadAttention(8, 2)(*(kiln.zeros(3, 2, 8),) * 3, attn_mask=kiln.zeros(2, 2)), RuntimeError),
        (lambda: nn.MultiheadAttention(8, 2)(*(kiln.zeros(3, 2, 8),) * 3, is_causal=True), RuntimeError),
        (lambda: nn.Transformer(8, 2, 1, 1, 8)(kiln.zeros(3, 2, 8), kiln.zeros(3, 4, 8)), RuntimeError),
        (lambda: nn.Transformer(8, 2, 1, 1, 8)(kiln.zeros(3, 2, 6), kiln.zeros(3, 2, 8)), RuntimeError),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(make, error):
    with pytest.raises(error, match=r"\["):
        make()


@in_turn("norm_first", [False, True])
def test_a_compiled_training_step_is_the_eager_one(norm_first):
    kiln.manual_seed(0)
    m = nn.Transformer(16, 4, 1, 1, 32, 0.0, "gelu", batch_first=True, norm_first=norm_first)
    src, tgt = kiln.tensor(draw(2, 6, 16)), kiln.tensor(draw(2, 5, 16))
    mask = m.generate_square_subsequent_mask(5)
    parameters = list(m.parameters())

    def step(src, tgt):
        loss = m(src, tgt, tgt_mask=mask, tgt_is_causal=True).pow(3).sum()
        return loss, *kiln.autograd.grad(loss, parameters)

    for got, want in zip(kiln.compile(step)(src, tgt), step(src, tgt), strict=True):
        scale = max(1.0, float(want.abs().max()))
        np.testing.assert_allclose(got.detach(), want.detach(), rtol=0, atol=2e-4 * scale)


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("norm_first", [False, True])
def test_a_transformer_is_pytorchs(batch_first, norm_first):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: extra [peers]")
    args = (16, 4, 2, 2, 32, 0.0, "gelu")
    kwargs = {"batch_first": batch_first, "norm_first": norm_first}
    theirs, ours = torch.nn.Transformer(*args, **kwargs), nn.Transformer(*args, **kwargs)
    state = theirs.state_dict()
    assert list(ours.state_dict()) == list(state)
    ours.load_state_dict({k: kiln.from_numpy(v.numpy().copy()) for k, v in state.items()})
    shapes = [(3, n, 16) if batch_first else (n, 3, 16) for n in (5, 6)]
    arrays = [draw(*s) for s in shapes]
    pad = np.zeros((3, 5), bool)
    pad[1, 3:] = True

    def run(lib, wrap):
        mask = lib.nn.Transformer.generate_square_subsequent_mask(6)
        x, y = (wrap(a.copy()).requires_grad_() for a in arrays)
        model = ours if lib is kiln else theirs
        padding = wrap(pad)
        out = model(x, y, tgt_mask=mask, src_key_padding_mask=padding, memory_key_padding_mask=padding)  # fmt: skip
        (out * out * out).sum().backward()
        return [t.detach().numpy() for t in (out, x.grad, y.grad, *(p.grad for p in model.parameters()))]  # fmt: skip

    for a, b in zip(run(kiln, kiln.from_numpy), run(torch, torch.from_numpy), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * max(1.0, np.abs(b).max()))


@pytest.mark.peers
@pytest.mark.parametrize("own_sizes", [False, True])
def test_attention_with_every_extra_is_pytorchs(own_sizes):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: extra [peers]")
    size = 6 if own_sizes else 8
    kwargs = {"kdim": size, "vdim": size, "add_bias_kv": True, "add_zero_attn": True}
    theirs, ours = (
        torch.nn.MultiheadAttention(8, 2, **kwargs),
        nn.MultiheadAttention(8, 2, **kwargs),
    )
    state = theirs.state_dict()
    assert list(ours.state_dict()) == list(state)
    ours.load_state_dict({k: kiln.from_numpy(v.numpy().copy()) for k, v in state.items()})
    q, kv, mask = draw(4, 2, 8), draw(5, 2, size), draw(4, 4, 5)
    for need in (True, False):
        x, wx = ours(*map(kiln.tensor, (q, kv, kv)), attn_mask=kiln.tensor(mask), need_weights=need)
        y, wy = theirs(
            *map(torch.tensor, (q, kv, kv)), attn_mask=torch.tensor(mask), need_weights=need
        )
        np.testing.assert_allclose(x.detach(), y.detach().numpy(), atol=1e-5)
        if need:
            np.testing.assert_allclose(wx.detach(), wy.detach().numpy(), atol=1e-5)
