"""Steps of random programs: products, convolutions, pooling, norms, losses, attention, recurrence, loops."""

from __future__ import annotations

from typing import Any

import kiln
import kiln.nn.functional as F

from .values import Values, floating

SIZES = {False: [1, 2, 3, 5, 7, 8, 13, 16, 17, 31, 33], True: [1, 17, 48, 64, 65, 130]}
SPATIAL = {
    False: [[3, 9, 16, 33], [4, 7, 8, 12], [3, 4, 5]],
    True: [[100, 257], [14, 28, 33], [6, 9]],
}


def product(v: Values, x: Any) -> Any:
    q, y = v.q, floating(x) * 0.25
    if y.ndim == 0:
        y = y.reshape(1)
    k, n = y.shape[-1], q.choice(SIZES[v.large])
    w = v.weight((k, n), y.dtype)
    batch = y.shape[:-2] if y.ndim > 2 and q.random() < 0.5 else ()
    out = q.choice([
        lambda: y @ w, lambda: y @ w, lambda: F.linear(y, v.weight((n, k), y.dtype), v.weight((n,), y.dtype)),
        lambda: F.linear(y, v.weight((n, k), y.dtype)), lambda: y @ y.transpose(-1, -2) if y.ndim > 1 else y @ y, lambda: y @ v.weight((k,), y.dtype),
        lambda: y @ v.weight((*batch, k, n), y.dtype), lambda: y.transpose(-1, -2) @ v.weight((y.shape[-2], n), y.dtype),
        lambda: kiln.addmm(v.weight((n,), y.dtype), y.reshape(-1, k), w, alpha=0.5), lambda: kiln.einsum("...k,kn->n...", y, w),
        lambda: kiln.outer(y.reshape(-1)[:20], w.reshape(-1)[:20]), lambda: y[..., ::2] @ w[::2], lambda: (y @ w).transpose(-1, -2),
        lambda: y.transpose(-1, -2).contiguous().transpose(-1, -2) @ w, lambda: kiln.einsum("...k,...k->...", y, y), lambda: y.flip(-1) @ w,
        lambda: kiln.bmm(y.reshape(1, -1, k), w.unsqueeze(0)), lambda: y.relu() @ (w * 2 + 1), lambda: kiln.tensordot(y, w, 1),
        lambda: y.expand(3, *y.shape) @ w, lambda: y.unsqueeze(-3) @ v.weight((2, k, n), y.dtype), lambda: F.linear(y, w.t()),
        lambda: kiln.baddbmm(v.weight((1, 1, n), y.dtype), y.reshape(1, -1, k), w.unsqueeze(0)), lambda: y.reshape(-1)[:9] @ v.weight((min(9, y.numel()), 3), y.dtype),
    ])()  # fmt: skip
    after = q.choice([
        lambda: out, lambda: out, lambda: (out + 1).relu(), lambda: F.gelu(out), lambda: out + v.weight(out.shape[-1:]), lambda: out.sum(-1),
        lambda: out.softmax(-1), lambda: out * v.weight(out.shape), lambda: out.sum(0),
    ])  # fmt: skip
    return v.tame(after())


def image(v: Values, x: Any, channels: int, spatial: tuple[int, ...]) -> Any:
    """`x`'s elements as a batch of images, in memory in one of several orders."""
    n = v.q.choice([1, 2, 3])
    if v.q.random() < 0.4:
        last = v.filled(x, (n, *spatial, channels))
        return last.permute(0, len(spatial) + 1, *range(1, len(spatial) + 1))
    y = v.filled(x, (n, channels, *spatial))
    if len(spatial) == 2 and v.q.random() < 0.2:
        return y.contiguous(memory_format=kiln.channels_last)
    return y


def sizes(v: Values, rank: int) -> tuple[int, ...]:
    return tuple(v.q.choice(SPATIAL[v.large][rank - 1]) for _ in range(rank))


def convolution(v: Values, x: Any) -> Any:
    q, rank = v.q, v.q.choice([1, 2, 2, 2, 2, 3])
    g = q.choice([1, 1, 1, 2, 3])
    ci, co = g * q.choice([1, 1, 2, 3, 8]), g * q.choice([1, 2, 3, 8, 16, 17])
    if q.random() < 0.15:
        g = co = ci = q.choice([3, 8, 16])
    if v.large or (rank == 2 and q.random() < 0.08):
        g, ci, co = 1, q.choice([3, 32, 32, 48]), 32  # wide enough for Winograd
    y = image(v, x, ci, sizes(v, rank)) * 0.5
    k = tuple(q.choice([1, 2, 3, 3, 3]) for _ in range(rank))
    if q.random() < 0.5:
        k = (3,) * rank
    stride, dilation = q.choice([1, 1, 1, 2, 3]), q.choice([1, 1, 1, 2])
    padding = q.choice([0, 1, 1, 2])
    bias = v.weight((co,), y.dtype) if q.random() < 0.6 else None
    if q.random() < 0.25:
        conv = getattr(F, f"conv_transpose{rank}d")
        w = v.weight((ci, co // g, *k), y.dtype)
        extra = q.choice([0, 0, 1]) if stride > 1 else 0
        out = conv(y, w, bias, stride, padding, extra, g, dilation)
    else:
        conv = getattr(F, f"conv{rank}d")
        w = v.weight((co, ci // g, *k), y.dtype)
        if q.random() < 0.1:
            stride, padding = 1, "same"
        out = conv(y, w, bias, stride, padding, dilation, g)
    after = q.choice([
        lambda: out, lambda: out.relu(), lambda: F.silu(out), lambda: out + v.weight(out.shape), lambda: out.mean((0, *range(2, out.ndim))),
        lambda: out.relu().amax(-1), lambda: out.permute(0, *range(2, out.ndim), 1), lambda: out.flatten(1),
        lambda: F.batch_norm(out, None, None, training=True, eps=1e-2), lambda: out[..., 1:],
    ])  # fmt: skip
    return v.tame(after())


def pooling(v: Values, x: Any) -> Any:
    q, rank = v.q, v.q.choice([1, 2, 2, 3])
    y = image(v, x, q.choice([1, 3, 8]), sizes(v, rank))
    k = q.choice([1, 2, 3])
    stride, padding, up = q.choice([None, 1, 2, 3]), q.choice([0, k // 2]), q.random() < 0.4
    name = f"{rank}d"
    return q.choice([
        lambda: getattr(F, "max_pool" + name)(y, k, stride, padding, q.choice([1, 1, 2]), up),
        lambda: getattr(F, "max_pool" + name)(y, k, stride, padding, 1, up, return_indices=True)[1],
        lambda: getattr(F, "avg_pool" + name)(y, k, stride, padding, up, q.random() < 0.5),
        lambda: getattr(F, "adaptive_avg_pool" + name)(y, q.choice([1, 2, 3])),
        lambda: getattr(F, "adaptive_max_pool" + name)(y, q.choice([1, 2, 3])),
        lambda: F.interpolate(y, scale_factor=2, mode=q.choice(["nearest", "area"])),
        lambda: F.interpolate(y, scale_factor=1.5, mode=["linear", "bilinear", "trilinear"][rank - 1], align_corners=q.random() < 0.5),
        lambda: F.unfold(y, k, 1, 1, q.choice([1, 2])), lambda: F.pixel_shuffle(y.repeat(1, 4, 1, 1), 2), lambda: F.lp_pool2d(y, 2, 2),
        # places in half floats are rounded by parts of a pixel where each op ends (30001942)
        lambda: sampled(v, y.float() if y.dtype.itemsize == 2 else y),
    ])()  # fmt: skip


def sampled(v: Values, y: Any) -> Any:
    """Pictures at places of the program's own."""
    return F.grid_sample(y, v.weight((y.shape[0], 3, 4, 2), y.dtype).tanh(), align_corners=False)


def varied(v: Values, y: Any) -> Any:
    """`y` of small numbers that differ: PyTorch's variance of equal ones is their rounding (10002197)."""
    return v.tame(y) + v.weight(y.shape, y.dtype)


def norm(v: Values, x: Any) -> Any:
    q = v.q
    if q.random() < 0.5:
        y = varied(v, floating(x))
        if y.ndim == 0:
            y = y.reshape(1)
        if y.shape[-1] == 1:  # the variance of one element is nothing but rounding (7403218)
            y = kiln.cat([y, y * 0 + 1], -1)
        tail = y.shape[-q.randint(1, min(2, y.ndim)) :]
        w, b = v.weight(tail, y.dtype), v.weight(tail, y.dtype)
        return v.tame(q.choice([
            lambda: F.layer_norm(y, tail, w, b, 1e-3), lambda: F.layer_norm(y, tail, eps=1e-3), lambda: F.rms_norm(y, tail, w, 1e-3),
            lambda: F.layer_norm(y + 1, tail, w, b, 1e-3).relu(), lambda: F.rms_norm(y * 2, tail, eps=1e-3),
        ])())  # fmt: skip
    g = q.choice([1, 2, 3])
    y = varied(v, image(v, x, c := g * q.choice([1, 2, 4]), sizes(v, q.choice([1, 2]))))
    w, b = v.weight((c,), y.dtype), v.weight((c,), y.dtype)
    means, spread = v.weight((c,), y.dtype), v.weight((c,), y.dtype).abs() + 0.5
    return v.tame(q.choice([
        lambda: F.batch_norm(y, None, None, w, b, True, eps=1e-3), lambda: F.batch_norm(y, means, spread, w, b, False),
        lambda: F.group_norm(y, g, w, b, 1e-3), lambda: F.instance_norm(y, weight=w, bias=b, eps=1e-3),
        lambda: F.batch_norm(y, None, None, w, b, True, eps=1e-3).relu(), lambda: F.local_response_norm(y, 2),
    ])())  # fmt: skip


def loss(v: Values, x: Any) -> Any:
    q, y = v.q, floating(x)
    how = q.choice(["mean", "sum", "none"])
    t = v.weight(y.shape, y.dtype)
    y2 = y.reshape(1, -1) if y.ndim < 2 else y
    n = y2.shape[1]
    labels = v.indices((y2.shape[0], *y2.shape[2:]), n).long()
    w = v.weight((n,), y.dtype).abs() + 0.1
    flat = y2.reshape(len(y2), -1)
    first = v.indices((len(y2),), flat.shape[1]).long()
    return v.tame(q.choice([
        lambda: F.mse_loss(y, t, reduction=how), lambda: F.l1_loss(y, t, reduction=how), lambda: F.smooth_l1_loss(y, t, reduction=how),
        lambda: F.huber_loss(y, t, reduction=how), lambda: F.cross_entropy(y2, labels, reduction=how), lambda: F.cross_entropy(y2, labels, w.detach(), reduction=how),
        lambda: F.cross_entropy(y2, labels, label_smoothing=0.1, reduction=how), lambda: F.cross_entropy(y2, labels, ignore_index=0, reduction="sum"),
        lambda: F.cross_entropy(y2, v.weight(y2.shape, y.dtype).softmax(1), reduction=how), lambda: F.nll_loss(y2.log_softmax(1), labels, reduction=how),
        lambda: F.binary_cross_entropy_with_logits(y, v.mask(y.shape).to(y.dtype), reduction=how),
        lambda: F.binary_cross_entropy(y.nan_to_num().sigmoid() * 0.9 + 0.05, v.mask(y.shape).to(y.dtype), reduction=how),
        lambda: F.kl_div(y.log_softmax(-1), t.softmax(-1), reduction="batchmean" if how == "mean" else how), lambda: F.soft_margin_loss(y, v.mask(y.shape).to(y.dtype) * 2 - 1, reduction=how),
        lambda: F.cosine_similarity(y, t, dim=-1, eps=1e-3), lambda: F.gaussian_nll_loss(y, t, t.abs() + 0.5, reduction=how),
        lambda: F.poisson_nll_loss(y.clamp(-3, 3), t.abs(), reduction=how), lambda: F.multi_margin_loss(flat, first, reduction=how),
    ])())  # fmt: skip


def attention(v: Values, x: Any) -> Any:
    q = v.q
    b, h, s, t, d = (
        q.choice([1, 2]),
        q.choice([1, 2, 4]),
        q.choice(SIZES[v.large]),
        q.choice(SIZES[v.large]),
        q.choice([1, 4, 8, 16, 24]),
    )
    dv = q.choice([d, d, 5])
    # which rows a NaN reaches differs among PyTorch's own kernels (7203444)
    x = floating(x).nan_to_num()
    query = (
        v.filled(x, (b, s, h, d)).transpose(1, 2) if q.random() < 0.5 else v.filled(x, (b, h, s, d))
    )
    key, value = v.weight((b, h, t, d), query.dtype), v.weight((b, h, t, dv), query.dtype)
    sdpa = F.scaled_dot_product_attention
    grouped = v.weight((b, 1, t, d), query.dtype)
    return q.choice([
        lambda: sdpa(query, key, value), lambda: sdpa(query, key, value, is_causal=True), lambda: sdpa(query, query, query, is_causal=True),
        lambda: sdpa(query, key, value, v.weight((s, t), query.dtype)), lambda: sdpa(query, key, value, v.mask((b, 1, 1, t)) | (kiln.arange(t) == 0)),
        lambda: sdpa(query, grouped, grouped, enable_gqa=True), lambda: sdpa(query, key, value, scale=0.3),
        lambda: (query @ key.transpose(-1, -2) / 4).softmax(-1) @ value, lambda: sdpa(query, key, value).transpose(1, 2).reshape(b, s, -1),
        lambda: sdpa(query * 0.5, key, value.relu(), v.weight((b, h, s, t), query.dtype)),
    ])()  # fmt: skip


def recurrence(v: Values, x: Any) -> Any:
    q = v.q
    t, b, i, h = (
        q.choice([1, 2, 5, 9]),
        q.choice([1, 2, 3, 8]),
        q.choice([1, 3, 8]),
        q.choice([1, 2, 5, 8]),
    )
    kind = q.choice(["LSTM", "GRU", "RNN"])
    layers, both = q.choice([1, 1, 2]), q.random() < 0.2
    made = v.module(kind, i, h, layers, bidirectional=both)
    # gates are not to reach what is nothing but an underflow (7600055)
    y = v.filled(x, (t, b, i)).float().clamp(-9, 9)
    out, state = made(y)
    state = state[0] if kind == "LSTM" else state
    return q.choice([lambda: out, lambda: out, lambda: state, lambda: out[-1]])()


def control(v: Values, x: Any) -> Any:
    q, y = v.q, floating(x)
    if y.ndim == 0:
        y = y.reshape(1)
    n, length = y.shape[-1], q.choice([1, 3, 6])
    w = v.weight((n, n), y.dtype)
    seq = v.filled(y, (length, 2, n)).to(y.dtype)
    start = kiln.zeros(2, n, dtype=y.dtype)

    def cell(carry: Any, item: Any) -> Any:
        new = (
            item.sin() + 0.2 * (carry @ w)
        ).tanh()  # not where it is 1 but for a rounding (1003178)
        return new, new * 2 + carry

    def counted(i: Any, z: Any) -> Any:
        return i + 1, z * 0.5 + i

    return q.choice([
        lambda: kiln.scan(cell, start, seq)[1], lambda: kiln.scan(cell, start, seq)[0], lambda: kiln.scan(lambda c, s: (c + s, c.sum()), start, seq)[1],
        # not on a sum that is 0 but for a rounding, as of what a norm gives (10016524)
        lambda: kiln.cond(y.sum() > 0.3, lambda a: a * 2, lambda a: a.sin(), (y,)),
        lambda: kiln.while_loop(lambda i, z: i < 4, counted, (kiln.tensor(0), y.detach()))[1],
        lambda: kiln.scan(lambda c, s: (c * 0.9 + s, c), start[:, :1], seq[..., :1])[0],
    ])()  # fmt: skip
