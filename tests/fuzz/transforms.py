"""Steps of random programs that differentiate or vectorize functions, and that call modules."""

from __future__ import annotations

from typing import Any

import kiln
import kiln.nn.functional as F

from .values import Values, floating


def transformed(v: Values, x: Any) -> Any:
    """A transform, or one of another, of a small function of rows."""
    q, y = v.q, floating(x).nan_to_num().clamp(-3, 3)
    if y.numel() == 0 or y.numel() > 600:
        raise ValueError("of some numbers, and few")
    y = y.reshape(1, -1) if y.ndim < 2 else y
    k, few = y.shape[-1], y.reshape(-1)[:4]
    w, t = v.weight((k, k), y.dtype), v.weight(y.shape, y.dtype)
    fn = q.choice([
        lambda a: a.sin() * 0.5 + a * a, lambda a: a.softmax(-1), lambda a: a.cumsum(-1) * 0.1, lambda a: kiln.where(a > 0, a, a * 0.1),
        lambda a: (a.unsqueeze(-1) * a.new_ones(2)).sum(-1), lambda a: a.sort(-1)[0], lambda a: a.exp().log1p(), lambda a: F.layer_norm(a, a.shape[-1:], eps=1e-2),
        lambda a: a / (1 + a.abs()), lambda a: a.flip(-1) * a, lambda a: kiln.cat([a[..., :1], a[..., 1:] * 2], -1), lambda a: F.gelu(a),
        lambda a: a.clone().mul_(2).tanh(), lambda a: a - a.mean(-1, keepdim=True), lambda a: kiln.logaddexp(a, a.flip(-1)),
    ])  # fmt: skip
    total = q.choice([
        lambda a: fn(a).sum(), lambda a: fn(a).square().mean(), lambda a: (fn(a) * 0.3).cos().sum(), lambda a: fn(a).logsumexp(-1).sum(),
    ])  # fmt: skip
    f, d, o = kiln.func, v.dim(y), q.choice([0, -1])
    return v.tame(q.choice([
        lambda: f.vmap(fn, d, o)(y), lambda: f.vmap(lambda a: a @ w if a.ndim else a, 0, o)(y), lambda: f.vmap(lambda a, b: fn(a) * b, (d, None))(y, few[0]),
        lambda: f.vmap(f.vmap(fn))(y.unsqueeze(-1)), lambda: f.grad(total)(y), lambda: f.vmap(f.grad(total), d)(y), lambda: f.vmap(total, d)(y),
        lambda: f.grad(lambda a: f.grad(total)(a).sin().sum())(y), lambda: f.jvp(fn, (y,), (t,))[q.choice([0, 1])], lambda: f.vjp(fn, y)[1](t)[0],
        lambda: f.jacrev(fn)(few), lambda: f.jacfwd(fn)(few), lambda: f.hessian(total)(few), lambda: f.vmap(lambda a, b: f.jvp(fn, (a,), (b,))[1])(y, t),
        lambda: f.grad_and_value(total)(y)[q.choice([0, 1])], lambda: f.vmap(f.jacrev(total))(y), lambda: f.jvp(f.grad(total), (y,), (t,))[1],
        lambda: f.grad(lambda a, b: (fn(a) * b).sum(), argnums=1)(y, t), lambda: differentiated(total, y), lambda: f.vmap(lambda a: fn(a).amax(-1), chunk_size=1)(y),
    ])())  # fmt: skip


def differentiated(total: Any, y: Any) -> Any:
    """The gradient on the tape, which may be differentiated again."""
    with kiln.enable_grad():
        z = y * 1 if y.requires_grad else y.detach().requires_grad_()
        return kiln.autograd.grad(total(z), z, create_graph=True)[0]


def layer(v: Values, x: Any) -> Any:
    """A layer of `nn`, whose parameters are weights."""
    q = v.q
    b, s, heads = q.choice([1, 2, 3]), q.choice([1, 2, 5]), q.choice([1, 2])
    e = heads * q.choice([2, 4])
    seq, y = v.filled(x, (b, s, e)).float().nan_to_num().clamp(-9, 9), v.filled(x, (b, e)).float()
    other = v.weight((b, q.choice([1, 3]), e))
    first, act = q.random() < 0.5, q.choice(["relu", "gelu"])
    flag, kernel = q.random() < 0.5, q.choice([1, 2, 3])
    made = v.module
    image = v.filled(x, (b, e, 5, 4)).float()
    return v.tame(q.choice([
        lambda: made("MultiheadAttention", e, heads, bias=flag, batch_first=True)(seq, other, other, need_weights=first)[0],
        lambda: made("MultiheadAttention", e, heads, add_bias_kv=flag, add_zero_attn=first, batch_first=True)(seq, seq, seq)[1],
        lambda: made("TransformerEncoderLayer", e, heads, 8, 0.0, act, 1e-3, True, first)(seq),
        lambda: made("TransformerDecoderLayer", e, heads, 8, 0.0, act, 1e-3, True, first)(seq, other),
        lambda: made("LSTMCell", e, 3, bias=flag)(y)[q.choice([0, 1])], lambda: made("GRUCell", e, 3, bias=flag)(y), lambda: made("RNNCell", e, 3)(y),
        lambda: made("Bilinear", e, e, 3, bias=flag)(y, y.flip(0)), lambda: made("PReLU", e)(y), lambda: made("Linear", e, 5, bias=flag)(seq),
        lambda: made("Embedding", 5, e, padding_idx=q.choice([None, 1]), scale_grad_by_freq=flag)(v.indices((b, s), 5).long()),
        lambda: made("EmbeddingBag", 5, e, mode=q.choice(["sum", "mean", "max"]))(v.indices((b, s), 5).long()),
        lambda: made("LayerNorm", e, eps=1e-3, bias=flag)(seq), lambda: made("GroupNorm", heads, e, eps=1e-3, affine=flag)(image),
        lambda: made("BatchNorm2d", e, eps=1e-3, affine=flag, track_running_stats=False)(image), lambda: made("RMSNorm", e, eps=1e-3)(seq),
        lambda: made("Conv2d", e, 4, kernel, q.choice([1, 2]), padding_mode=q.choice(["zeros", "reflect", "circular"]), padding=1, groups=heads, bias=flag)(image),
        lambda: made("ConvTranspose2d", e, 4, kernel, 2, bias=flag, output_padding=1)(image), lambda: made("Conv1d", s, 2, 1, bias=flag)(seq),
        lambda: made("InstanceNorm2d", e, eps=1e-3, affine=flag)(image), lambda: made("CosineSimilarity", -1, 1e-3)(seq, seq.flip(-1) + 1),
        lambda: made("LSTM", e, 3, proj_size=2, bidirectional=flag, batch_first=True)(seq)[0], lambda: made("Fold", (3, 3), 1)(v.filled(x, (b, e, 9)).float()),
        lambda: made("AdaptiveLogSoftmaxWithLoss", e, 7, (2, 4))(y, v.indices((b,), 7).long())[0],
    ])())  # fmt: skip
