"""nn.attention: scores and masks as functions, causal masks, sequences of several lengths."""

import numpy as np
import pytest

import kiln
from kiln.nn import functional as F
from kiln.nn.attention import SDPBackend, _cur_sdpa_kernel_backends, bias, sdpa_kernel
from kiln.nn.attention.flex_attention import (
    AuxRequest,
    BlockMask,
    and_masks,
    create_block_mask,
    create_mask,
    flex_attention,
    or_masks,
)
from kiln.nn.attention.varlen import varlen_attn

LENGTHS = (5, 7)


def problem():
    rng = np.random.default_rng(0)

    def draw(*shape):
        return kiln.tensor(rng.standard_normal(shape).astype("f4"))

    q, k, v = draw(2, 4, 5, 8), draw(2, 4, 7, 8), draw(2, 4, 7, 8)
    table, slopes, document = draw(4, 5, 7), draw(4), kiln.tensor([0, 0, 1, 1, 1, 2, 2])
    scores = {
        "none": None,
        "table": lambda s, b, h, q, kv: s + table[h, q, kv],
        "rows": lambda s, b, h, q, kv: s + table[h][q][kv],
        "slopes": lambda s, b, h, q, kv: s + slopes[h] * (kv - q),
        "causal": lambda s, b, h, q, kv: kiln.where(q >= kv, s, -float("inf")),
    }
    masks = {
        "none": None,
        "causal": lambda b, h, q, kv: q >= kv,
        "documents": lambda b, h, q, kv: document[q] == document[kv],
        "some rows": lambda b, h, q, kv: (q > 2) & (kv < b + 3),
    }
    return (q, k, v), scores, masks


def one_by_one(inputs, score, mask):
    """Attention and its log-sum-exp with the functions called for each position alone."""
    q, k, v = (x.numpy().astype("f8") for x in inputs)
    s = np.einsum("bhqe,bhke->bhqk", q, k) * 8**-0.5
    for at in np.ndindex(*s.shape):
        where = [kiln.tensor(i) for i in at]
        if score:
            s[at] = float(score(kiln.tensor(s[at]), *where))
        if mask and not bool(mask(*where)):
            s[at] = -np.inf
    top = np.nan_to_num(s.max(-1, keepdims=True), neginf=0)
    e = np.exp(s - top)
    total = e.sum(-1, keepdims=True)
    with np.errstate(divide="ignore"):
        return e / np.where(total == 0, 1, total) @ v, (np.log(total) + top)[..., 0]


@pytest.mark.parametrize(
    ("score", "mask"),
    [("none", "causal"), ("table", "documents"), ("rows", "none"), ("slopes", "some rows"), ("causal", "none")],
)  # fmt: skip
def test_flex_attention_calls_its_functions_for_all_positions(score, mask):
    inputs, scores, masks = problem()
    score, mask = scores[score], masks[mask]
    block = mask and create_block_mask(mask, 2, None, *LENGTHS, BLOCK_SIZE=2)
    y, aux = flex_attention(*inputs, score, block, return_aux=AuxRequest(lse=True))
    due, lse = one_by_one(inputs, score, mask)
    np.testing.assert_allclose(y.numpy(), due, atol=1e-5)
    np.testing.assert_allclose(aux.lse.numpy(), lse, atol=1e-5)


def test_heads_may_share_keys():
    (q, k, v), _, _ = problem()
    two = flex_attention(q, k[:, :2], v[:, :2], scale=0.3, enable_gqa=True)
    each = [flex_attention(q[:, [h]], k[:, [h // 2]], v[:, [h // 2]], scale=0.3) for h in range(4)]
    assert (two - kiln.cat(each, 1)).abs().max() < 1e-6


def test_a_block_mask_lists_what_pytorch_lists():
    m = create_block_mask(lambda b, h, q, kv: q >= kv, None, None, 38, 50, BLOCK_SIZE=16)
    assert m.shape == (1, 1, 38, 50)
    assert m.kv_num_blocks.tolist() == [[[1, 1, 3]]]
    assert m.kv_indices.tolist() == [[[[0, 1, 2, 3], [1, 0, 2, 3], [0, 1, 2, 3]]]]
    assert m.full_kv_num_blocks.tolist() == [[[0, 1, 0]]]
    assert m.q_num_blocks.tolist() == [[[2, 2, 1, 0]]]
    assert m.q_indices.tolist() == [[[[0, 2, 1], [1, 2, 0], [2, 0, 1], [0, 1, 2]]]]
    assert m.full_q_indices.tolist() == [[[[1, 0, 2], [0, 1, 2], [0, 1, 2], [0, 1, 2]]]]
    assert m.to_dense().tolist() == [[[[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]]]]
    assert m.sparsity() == pytest.approx(19.157895)
    picture = (
        "BlockMask(shape=(1, 1, 38, 50), sparsity=19.16%, \n(0, 0)\n██      \n████    \n██████\n)"
    )
    assert str(m) == picture
    again = BlockMask.from_kv_blocks(*m.as_tuple()[2:6], 16, m.mask_mod, (38, 50))
    for a, b in zip(again.as_tuple()[:10], m.as_tuple()[:10], strict=True):
        assert a == b if isinstance(a, int) else a.tolist() == b.tolist()


def test_masks_combine():
    masks = problem()[2]
    causal, documents = (create_mask(masks[n], None, 2, *LENGTHS) for n in ("causal", "documents"))
    both = create_mask(and_masks(masks["causal"], masks["documents"]), None, 2, *LENGTHS)
    either = create_mask(or_masks(masks["causal"], masks["documents"]), None, 2, *LENGTHS)
    assert both.equal(causal & documents)
    assert either.equal(causal | documents)
    assert create_mask(problem()[1]["causal"], None, 2, *LENGTHS).equal(causal)


def test_flex_attention_has_gradients_and_compiles():
    (q, k, v), scores, masks = problem()
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


def test_a_block_mask_shrinks_with_the_sequences():
    masks = problem()[2]
    for mask in (masks["causal"], masks["documents"]):
        whole = create_block_mask(mask, None, None, *LENGTHS, BLOCK_SIZE=2)
        less = create_block_mask(mask, None, None, 4, 4, BLOCK_SIZE=2)
        assert whole._adjust(4, 4).to_dense().tolist() == less.to_dense().tolist()


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


def test_what_nobody_differentiates_has_the_same_bits_and_order_of_memory():
    q = kiln.randn(2, 3, 5, 4)
    with kiln.no_grad():
        out = F.scaled_dot_product_attention(q, q, q, is_causal=True)
    due = F.scaled_dot_product_attention(q.clone().requires_grad_(), q, q, is_causal=True)
    assert out.equal(due)
    assert out.stride() == due.stride()
    assert out._version == 0
    assert out.add_(1)._version == 1
