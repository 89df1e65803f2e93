"""nn.attention beside PyTorch: scores and masks as functions, causal masks, sequences of several lengths."""

from importlib import import_module

import numpy as np
import pytest

import kiln
from kiln.nn import functional as F
from kiln.nn.attention import SDPBackend, _cur_sdpa_kernel_backends, bias, sdpa_kernel
from kiln.nn.attention.flex_attention import AuxRequest, create_block_mask, flex_attention
from kiln.nn.attention.varlen import varlen_attn

peers = pytest.mark.peers
LENGTHS = (5, 7)


def problem(lib):
    rng = np.random.default_rng(0)

    def draw(*shape):
        return lib.tensor(rng.standard_normal(shape).astype("f4"))

    q, k, v = draw(2, 4, 5, 8), draw(2, 4, 7, 8), draw(2, 4, 7, 8)
    table, slopes, document = draw(4, 5, 7), draw(4), lib.tensor([0, 0, 1, 1, 1, 2, 2])
    scores = {
        "none": None,
        "table": lambda s, b, h, q, kv: s + table[h, q, kv],
        "rows": lambda s, b, h, q, kv: s + table[h][q][kv],
        "slopes": lambda s, b, h, q, kv: s + slopes[h] * (kv - q),
        "causal": lambda s, b, h, q, kv: lib.where(q >= kv, s, -float("inf")),
    }
    masks = {
        "none": None,
        "causal": lambda b, h, q, kv: q >= kv,
        "documents": lambda b, h, q, kv: document[q] == document[kv],
        "some rows": lambda b, h, q, kv: (q > 2) & (kv < b + 3),
    }
    return (q, k, v), scores, masks


def block_facts(m):
    values = [x for x in m.as_tuple()[:10] if not isinstance(x, int | None)]
    return [x.tolist() for x in [*values, m.to_dense(), m[1].kv_indices]] + [
        str(m), m.shape, m.sparsity(), m._adjust(3, 4).kv_num_blocks.tolist(),
    ]  # fmt: skip


@peers
@pytest.mark.filterwarnings("ignore:flex_attention called")
def test_flex_attention_beside_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: extra [peers]")
    found = []
    for lib in (kiln, torch):
        x = import_module(f"{lib.__name__}.nn.attention.flex_attention")
        inputs, scores, masks = problem(lib)
        out, blocks = [], []
        for mask in masks.values():
            block = mask and x.create_block_mask(
                mask, 2, None, *LENGTHS, device="cpu", BLOCK_SIZE=2
            )
            blocks += block_facts(block) if block else []
            for score in scores.values():
                y, aux = x.flex_attention(*inputs, score, block, return_aux=x.AuxRequest(lse=True))
                out += [y, aux.lse]
        q, k, v = inputs
        out.append(x.flex_attention(q, k[:, :2], v[:, :2], scale=0.3, enable_gqa=True))
        both = x.and_masks(masks["causal"], masks["documents"])
        either = x.or_masks(masks["causal"], masks["documents"])
        blocks += [x.create_mask(m, None, 2, *LENGTHS, device="cpu").tolist() for m in (both, either, scores["causal"])]  # fmt: skip
        found.append((out, blocks))
    (ours, our_blocks), (theirs, their_blocks) = found
    assert our_blocks == their_blocks
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-5, err_msg=str(i))


def test_flex_attention_has_gradients_and_compiles():
    (q, k, v), scores, masks = problem(kiln)
    block = create_block_mask(masks["causal"], None, None, *LENGTHS)
    q.requires_grad_()

    def run(q):
        return flex_attention(q, k, v, scores["slopes"], block)

    (grad,) = kiln.autograd.grad(run(q).square().sum(), q)
    step = 1e-2 * kiln.randn(q.shape)
    change = run(q + step).square().sum() - run(q - step).square().sum()
    assert abs(float(change - 2 * (grad * step).sum())) < 2e-3
    assert (kiln.compile(run)(q) - run(q)).abs().max() < 1e-5
    _, aux = flex_attention(q, k, v, return_aux=AuxRequest(max_scores=True))
    assert aux.lse is None
    assert (aux.max_scores - (q * 8**-0.5 @ k.mT).amax(-1)).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda q: flex_attention(q, q[:, :1], q[:, :1]), ValueError),
        (lambda q: flex_attention(q, q[..., :4], q), ValueError),
        (lambda q: flex_attention(q[0], q[0], q[0]), NotImplementedError),
        (lambda q: flex_attention(q, q, q, block_mask=create_block_mask(lambda b, h, i, j: i >= j, 1, 1, 3, 3)), ValueError),
        (lambda q: sdpa_kernel(3).__enter__(), AssertionError),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(call, error):
    with pytest.raises(error):
        call(kiln.zeros(1, 2, 4, 8))


def test_causal_biases_are_masks_from_either_corner():
    q, k = kiln.randn(1, 2, 3, 4), kiln.randn(1, 2, 5, 4)
    for mask, shift in ((bias.causal_upper_left(3, 5), 0), (bias.causal_lower_right(3, 5), 2)):
        seen = kiln.ones(3, 5).tril(shift).bool()
        due = F.scaled_dot_product_attention(q, k, k, seen)
        assert (F.scaled_dot_product_attention(q, k, k, mask) - due).abs().max() == 0


def test_the_choice_of_a_kernel_is_remembered():
    before = _cur_sdpa_kernel_backends()
    with sdpa_kernel([SDPBackend.MATH, SDPBackend.FLASH_ATTENTION]):
        assert _cur_sdpa_kernel_backends() == [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION]
    assert _cur_sdpa_kernel_backends() == before


def test_sequences_attend_within_themselves():
    q, starts = kiln.randn(7, 2, 4), kiln.tensor([0, 3, 7], dtype=kiln.int32)

    def alone(a, b):
        x = q[a:b].transpose(0, 1).unsqueeze(0)
        return F.scaled_dot_product_attention(x, x, x, is_causal=True)[0].transpose(0, 1)

    out = varlen_attn(q, q, q, starts, starts, 4, 4, window_size=(-1, 0))
    assert (out - kiln.cat([alone(0, 3), alone(3, 7)])).abs().max() < 1e-6
