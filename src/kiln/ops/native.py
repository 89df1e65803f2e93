"""Layers and losses under the names and signatures of `torch.*`, which `torch.nn.functional` calls inside PyTorch.

Reductions are numbers here: 0 none, as where it is not given, 1 mean, 2 sum. Loaded when first used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..autograd.modes import no_grad
from ..errors import KilnError, KilnValueError, describe
from ..shape import norm_dim
from ..tensor import Tensor
from .indexing import assign
from .registry import FUNCTIONS, Sample, composition
from .samples import draw, rng
from .selection import where_op

F = {
    n.removeprefix("nn.functional."): fn
    for n, fn in FUNCTIONS.items()
    if n.startswith("nn.functional.")
}
_REDUCTIONS = ("none", "mean", "sum")


def _reduction(name: str, number: int) -> str:
    if number not in (0, 1, 2):
        raise KilnValueError(
            name, "a reduction is 0 (none), 1 (mean) or 2 (sum)", number, "see kiln.nn.functional"
        )
    return _REDUCTIONS[number]


# ---------------------------------------------------------------- dropout


def _dropout(name: str, source: str) -> tuple[Callable, Callable]:
    run = F[source]

    def out_of_place(input: Tensor, p: float, train: bool) -> Tensor:
        return run(input, p, train)

    def in_place(input: Tensor, p: float, train: bool) -> Tensor:
        return assign(input, run, p, train)

    out_of_place.__name__, in_place.__name__ = name, name + "_"
    out_of_place.__doc__ = f"`kiln.nn.functional.{source}` with p and train in order."
    in_place.__doc__ = f"`{name}` in place."
    return out_of_place, in_place


dropout, dropout_ = _dropout("dropout", "dropout")
alpha_dropout, alpha_dropout_ = _dropout("alpha_dropout", "alpha_dropout")
feature_alpha_dropout, feature_alpha_dropout_ = _dropout(
    "feature_alpha_dropout", "feature_alpha_dropout"
)
feature_dropout, feature_dropout_ = _dropout("feature_dropout", "dropout2d")


def native_dropout(input: Tensor, p: float, train: bool | None) -> tuple[Tensor, Tensor]:
    """(input with elements zeroed with probability p and the others scaled, which were kept)."""
    if not train and train is not None:
        return input, input.new_ones(input.shape, dtype=FUNCTIONS["isnan"](input).dtype)
    keep = FUNCTIONS["rand"](input.shape) >= p
    return input * keep * (0.0 if p == 1 else 1 / (1 - p)), keep


def rrelu(
    input: Tensor,
    lower: float = 0.125,
    upper: float = 1 / 3,
    training: bool = False,
    generator: Any = None,
) -> Tensor:
    """`kiln.nn.functional.rrelu`, with numbers from the default generator."""
    return F["rrelu"](input, lower, upper, training)


def rrelu_(
    input: Tensor,
    lower: float = 0.125,
    upper: float = 1 / 3,
    training: bool = False,
    generator: Any = None,
) -> Tensor:
    """`rrelu` in place."""
    return assign(input, F["rrelu"], lower, upper, training)


# ---------------------------------------------------------------- losses


def binary_cross_entropy_with_logits(input: Tensor, target: Tensor, weight: Tensor | None = None,
                                     pos_weight: Tensor | None = None, reduction: int = 0) -> Tensor:  # fmt: skip
    """`kiln.nn.functional.binary_cross_entropy_with_logits` with the reduction as a number."""
    how = _reduction("binary_cross_entropy_with_logits", reduction)
    return F["binary_cross_entropy_with_logits"](
        input, target, weight, reduction=how, pos_weight=pos_weight
    )


def cosine_embedding_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0.0, reduction: int = 0
) -> Tensor:
    """`kiln.nn.functional.cosine_embedding_loss` with the reduction as a number."""
    return F["cosine_embedding_loss"](
        input1, input2, target, margin, reduction=_reduction("cosine_embedding_loss", reduction)
    )


def ctc_loss(log_probs: Tensor, targets: Tensor, input_lengths: Any, target_lengths: Any, blank: int = 0, reduction: int = 0,
             zero_infinity: bool = False) -> Tensor:  # fmt: skip
    """`kiln.nn.functional.ctc_loss` with the reduction as a number."""
    how = _reduction("ctc_loss", reduction)
    return F["ctc_loss"](
        log_probs, targets, input_lengths, target_lengths, blank, how, zero_infinity
    )


def hinge_embedding_loss(
    input: Tensor, target: Tensor, margin: float = 1.0, reduction: int = 0
) -> Tensor:
    """`kiln.nn.functional.hinge_embedding_loss` with the reduction as a number."""
    return F["hinge_embedding_loss"](
        input, target, margin, reduction=_reduction("hinge_embedding_loss", reduction)
    )


def kl_div(
    input: Tensor, target: Tensor, reduction: int = 0, *, log_target: bool = False
) -> Tensor:
    """`kiln.nn.functional.kl_div` with the reduction as a number."""
    return F["kl_div"](
        input, target, reduction=_reduction("kl_div", reduction), log_target=log_target
    )


def margin_ranking_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0.0, reduction: int = 0
) -> Tensor:
    """`kiln.nn.functional.margin_ranking_loss` with the reduction as a number."""
    return F["margin_ranking_loss"](
        input1, input2, target, margin, reduction=_reduction("margin_ranking_loss", reduction)
    )


def poisson_nll_loss(
    input: Tensor, target: Tensor, log_input: bool, full: bool, eps: float, reduction: int
) -> Tensor:
    """`kiln.nn.functional.poisson_nll_loss` with the reduction as a number."""
    how = _reduction("poisson_nll_loss", reduction)
    return F["poisson_nll_loss"](input, target, log_input, full, eps=eps, reduction=how)


def triplet_margin_loss(anchor: Tensor, positive: Tensor, negative: Tensor, margin: float = 1.0, p: float = 2.0,
                        eps: float = 1e-6, swap: bool = False, reduction: int = 0) -> Tensor:  # fmt: skip
    """`kiln.nn.functional.triplet_margin_loss` with the reduction as a number."""
    how = _reduction("triplet_margin_loss", reduction)
    return F["triplet_margin_loss"](anchor, positive, negative, margin, p, eps, swap, reduction=how)


# ---------------------------------------------------------------- lookups


def embedding(
    weight: Tensor,
    indices: Tensor,
    padding_idx: int = -1,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """`kiln.nn.functional.embedding` with the weight first; a padding_idx of -1 is none."""
    return F["embedding"](
        indices,
        weight,
        None if padding_idx == -1 else padding_idx,
        None,
        2.0,
        scale_grad_by_freq,
        sparse,
    )


def embedding_renorm_(input: Tensor, indices: Tensor, max_norm: float, norm_type: float) -> Tensor:
    """The rows at `indices` scaled down in place to a norm of at most max_norm."""
    rows = indices.reshape(-1).unique()
    with no_grad():
        input[rows] = FUNCTIONS["renorm"](input[rows], norm_type, 0, max_norm)
    return input


# ---------------------------------------------------------------- sampling of images


def _choice(name: str, number: int, names: Sequence[str]) -> str:
    if not 0 <= number < len(names):
        raise KilnValueError(
            name, f"expected a number from 0 to {len(names) - 1}: {', '.join(names)}", number, ""
        )
    return names[number]


def grid_sampler(
    input: Tensor, grid: Tensor, interpolation_mode: int, padding_mode: int, align_corners: bool
) -> Tensor:
    """`kiln.nn.functional.grid_sample` with modes as numbers: bilinear, nearest, bicubic; zeros, border, reflection."""
    mode = _choice("grid_sampler", interpolation_mode, ("bilinear", "nearest", "bicubic"))
    edge = _choice("grid_sampler", padding_mode, ("zeros", "border", "reflection"))
    return F["grid_sample"](input, grid, mode, edge, align_corners)


grid_sampler_2d = grid_sampler_3d = grid_sampler


def affine_grid_generator(theta: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """`kiln.nn.functional.affine_grid`."""
    return F["affine_grid"](theta, size, align_corners)


# ---------------------------------------------------------------- norms


def instance_norm(input: Tensor, weight: Tensor | None, bias: Tensor | None, running_mean: Tensor | None,
                  running_var: Tensor | None, use_input_stats: bool, momentum: float, eps: float, cudnn_enabled: bool) -> Tensor:  # fmt: skip
    """`kiln.nn.functional.instance_norm` with its arguments in the order of `torch.instance_norm`."""
    return F["instance_norm"](
        input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps
    )


def _rows(x: Tensor, dims: tuple[int, ...], eps: float) -> tuple[Tensor, Tensor]:
    """The mean and the inverse deviation over dimensions, which stay with size 1."""
    return x.mean(dims, True), (x.var(dims, correction=0, keepdim=True) + eps).rsqrt()


_X = draw(rng(), (2, 4, 3))


@composition(method=False, samples=lambda: iter([
    Sample((_X, (3,), draw(rng(1), (3,)), draw(rng(2), (3,)), 1e-5)), Sample((_X, (4, 3), None, None, 1e-5)),
]))  # fmt: skip
def native_layer_norm(input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None, bias: Tensor | None,
                      eps: float) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """(layer norm, mean, inverse deviation)."""
    shape = tuple(normalized_shape)
    out = F["layer_norm"](input, shape, weight, bias, eps)
    dims = tuple(range(input.ndim - len(shape), input.ndim))
    return (out, *_rows(input.detach(), dims, eps))


@composition(method=False, samples=lambda: iter([
    Sample((_X, draw(rng(1), (4,)), draw(rng(2), (4,)), 2, 4, 3, 2, 1e-5)), Sample((_X, None, None, 2, 4, 3, 4, 1e-5)),
]))  # fmt: skip
def native_group_norm(input: Tensor, weight: Tensor | None, bias: Tensor | None, N: int, C: int, HxW: int, group: int,
                      eps: float) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """(group norm, mean, inverse deviation) of N images of C channels and HxW elements each."""
    out = F["group_norm"](input, group, weight, bias, eps)
    mean, inverse = _rows(input.reshape(N, group, C // group * HxW), (2,), eps)
    return out, mean.squeeze(2), inverse.squeeze(2)


@composition(out=True, method=False, samples=lambda: iter([
    Sample((_X, draw(rng(1), (4,)), draw(rng(2), (4,)), None, None, True, 0.1, 1e-5)),
    Sample((_X, None, None, draw(rng(1), (4,)), draw(rng(2), (4,), 0.5, 1), False, 0.1, 1e-5), grad=False),
]))  # fmt: skip
def native_batch_norm(input: Tensor, weight: Tensor | None, bias: Tensor | None, running_mean: Tensor | None,
                      running_var: Tensor | None, training: bool, momentum: float, eps: float) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """(batch norm, mean, inverse deviation); of running statistics the last two are empty."""
    out = F["batch_norm"](input, running_mean, running_var, weight, bias, training, momentum, eps)
    if not training:
        return out, input.new_empty(0), input.new_empty(0)
    mean, inverse = _rows(input.detach(), tuple(d for d in range(input.ndim) if d != 1), eps)
    return out, mean.reshape(-1), inverse.reshape(-1)


@composition(method=False, samples=lambda: iter([
    Sample((_X,)), Sample((_X, 2, 1)), Sample((_X, 2, -1)), Sample((_X, 1, 0)),
]))  # fmt: skip
def norm_except_dim(v: Tensor, pow: int = 2, dim: int = 0) -> Tensor:
    """The `pow`-norm over all dimensions but one, which stay with size 1; over all where dim is -1."""
    if dim == -1:
        return v.norm(pow)
    d = norm_dim(dim, v.ndim, "norm_except_dim")
    return v.norm(pow, tuple(i for i in range(v.ndim) if i != d), True)


@composition(method=False, out=True, samples=lambda: iter([
    Sample((_X, 1)), Sample((_X, (0, 2), True)), Sample((_X, (0, 1, 2)), error=RuntimeError),
]))  # fmt: skip
def frobenius_norm(input: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    """The square root of the sum of squares over at most two dimensions."""
    if not isinstance(dim, int) and len(dim) > 2:
        raise KilnError(
            "frobenius_norm",
            f"Expected at most 2 dimensions, but got {len(dim)} dimensions instead.",
            dim,
            "",
        )
    return input.norm(2, dim if isinstance(dim, int) or len(dim) else None, keepdim)


@composition(
    method=False,
    out=True,
    samples=lambda: iter([Sample((_X[0],)), Sample((_X, (0, 2))), Sample((_X, (2, 0), True))]),
)
def nuclear_norm(input: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """The sum of the singular values of a matrix, or of those in two dimensions."""
    if isinstance(dim, bool):
        dim, keepdim = None, dim
    return input.norm("nuc", dim, keepdim)


# ---------------------------------------------------------------- movement and windows


@composition(
    method=False, samples=lambda: iter([Sample((_X, (1, -1, 0, 2), 1.5)), Sample((_X, (1, 0)))])
)
def constant_pad_nd(input: Tensor, pad: Sequence[int], value: Any = 0) -> Tensor:
    """Padded (or cut, where negative) with a constant, from the last dimension on."""
    return F["pad"](input, pad, "constant", value)


@composition(
    method=False, samples=lambda: iter([Sample((_X, 2)), Sample((_X, 3), error=RuntimeError)])
)
def native_channel_shuffle(input: Tensor, groups: int) -> Tensor:
    """`channel_shuffle`."""
    return F["channel_shuffle"](input, groups)


@composition(method=False, samples=lambda: iter([
    Sample((draw(rng(), (5, 2, 3)), draw(rng(1), (2, 3, 4)), draw(rng(2), (4,)), 1), grad=False),
    Sample((draw(rng(), (5, 2, 3)), draw(rng(1), (2, 2, 4)), draw(rng(2), (4,))), error=RuntimeError),
]))  # fmt: skip
def conv_tbc(input: Tensor, weight: Tensor, bias: Tensor, pad: int = 0) -> Tensor:
    """A convolution over time of (time, batch, channels), with a weight (width, channels in, channels out)."""
    if input.ndim != 3 or weight.ndim != 3 or bias.ndim != 1 or input.shape[2] != weight.shape[1]:
        raise KilnError("conv_tbc", "expected input (time, batch, in), weight (width, in, out) and bias (out)",
                        describe((input, weight, bias)), "")  # fmt: skip
    out = F["conv1d"](input.permute(1, 2, 0), weight.permute(2, 1, 0), bias, 1, pad)
    return out.permute(2, 0, 1).contiguous()


FUNCTIONS["nn.functional.conv_tbc"] = conv_tbc
FUNCTIONS["nn.functional.native_channel_shuffle"] = native_channel_shuffle


def convolution(input: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], padding: Sequence[int],
                dilation: Sequence[int], transposed: bool, output_padding: Sequence[int], groups: int) -> Tensor:  # fmt: skip
    """A convolution of as many dimensions as the weight has, or its transpose."""
    n = weight.ndim - 2
    if transposed:
        return F[f"conv_transpose{n}d"](
            input, weight, bias, stride, padding, output_padding, groups, dilation
        )
    return F[f"conv{n}d"](input, weight, bias, stride, padding, dilation, groups)


def max_pool1d_with_indices(input: Tensor, kernel_size: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1,
                            ceil_mode: bool = False) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The largest element of each window and where it was."""
    return F["max_pool1d"](input, kernel_size, stride or None, padding, dilation, ceil_mode, True)


def adaptive_max_pool1d(input: Tensor, output_size: Any) -> tuple[Tensor, Tensor]:
    """The largest element of each of `output_size` windows and where it was."""
    return F["adaptive_max_pool1d"](input, output_size, True)


def embedding_bag(weight: Tensor, indices: Tensor, offsets: Tensor, scale_grad_by_freq: bool = False, mode: int = 0,
                  sparse: bool = False, per_sample_weights: Tensor | None = None, include_last_offset: bool = False,
                  padding_idx: int | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """(bags, bag of each index, size of each bag, rows of the maxima): `mode` 0 sums, 1 is the mean, 2 the maximum."""
    from .embedding import _bags

    out = F["embedding_bag"](
        indices, weight, offsets, None, 2.0, scale_grad_by_freq, ("sum", "mean", "max")[mode], sparse,
        per_sample_weights, include_last_offset, padding_idx,
    )  # fmt: skip
    index, bag, bags = _bags("embedding_bag", indices, offsets, include_last_offset)
    counted = index == index if padding_idx is None else index != padding_idx
    sizes = index.new_zeros((bags,)).index_add(0, bag, counted.to(index.dtype))
    if mode != 2:
        return out, bag, sizes, sizes
    best = (
        weight.detach().index_select(0, index) == out.detach().index_select(0, bag)
    ) & counted.unsqueeze(1)
    rows = where_op(best, index.unsqueeze(1), 0)
    at = bag.unsqueeze(1).expand(rows.shape)
    return out, bag, sizes, index.new_zeros(out.shape).scatter_reduce(0, at, rows, "amax")


# ---------------------------------------------------------------- recurrent cells


def _gates(x: Tensor, w: Tensor, b: Tensor | None, count: int) -> tuple[Tensor, ...]:
    return F["linear"](x, w, b).chunk(count, -1)


def _cell_samples(gates: int, pair: bool) -> Callable:
    def samples() -> Any:
        r = rng(3)
        h = draw(r, (2, 4))
        state = [h, draw(r, (2, 4))] if pair else h
        weights = (
            draw(r, (gates * 4, 3)),
            draw(r, (gates * 4, 4)),
            draw(r, (gates * 4,)),
            draw(r, (gates * 4,)),
        )
        yield Sample((draw(r, (2, 3)), state, *weights))
        yield Sample((draw(r, (2, 3)), state, *weights[:2]))

    return samples


@composition(method=False, samples=_cell_samples(4, True))
def lstm_cell(input: Tensor, hx: Sequence[Tensor], w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None,
              b_hh: Tensor | None = None) -> tuple[Tensor, Tensor]:  # fmt: skip
    """One step of an LSTM: the next (output, cell) state."""
    h, c = hx
    i, f, g, o = (
        a + b for a, b in zip(_gates(input, w_ih, b_ih, 4), _gates(h, w_hh, b_hh, 4), strict=True)
    )
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


@composition(method=False, samples=_cell_samples(3, False))
def gru_cell(input: Tensor, hx: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None,
             b_hh: Tensor | None = None) -> Tensor:  # fmt: skip
    """One step of a GRU: the next state."""
    (a_r, a_z, a_n), (b_r, b_z, b_n) = _gates(input, w_ih, b_ih, 3), _gates(hx, w_hh, b_hh, 3)
    z = (a_z + b_z).sigmoid()
    n = (a_n + (a_r + b_r).sigmoid() * b_n).tanh()
    return n + z * (hx - n)


def _rnn_cell(name: str, squash: Callable) -> Callable:
    def fn(
        input: Tensor,
        hx: Tensor,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None = None,
        b_hh: Tensor | None = None,
    ) -> Tensor:
        return squash(F["linear"](input, w_ih, b_ih) + F["linear"](hx, w_hh, b_hh))

    fn.__name__, fn.__doc__ = name, "One step of a plain recurrent network: the next state."
    return composition(method=False, samples=_cell_samples(1, False))(fn)


rnn_tanh_cell = _rnn_cell("rnn_tanh_cell", Tensor.tanh)
rnn_relu_cell = _rnn_cell("rnn_relu_cell", Tensor.relu)


def _softmax_backward_data(
    grad_output: Tensor, output: Tensor, dim: int, input_dtype: Any
) -> Tensor:
    """The gradient of a softmax's input, of that of its output and the output itself."""
    product = grad_output * output
    return (product - output * product.sum(dim, keepdim=True)).to(input_dtype)
