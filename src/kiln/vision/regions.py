"""Parts of feature maps: regions of interest, pyramids, convolutions whose taps are moved.

https://docs.pytorch.org/vision/stable/ops.html
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import kiln
import kiln.nn.functional as F

from .. import nn
from ..errors import KilnValueError, describe
from ..tensor import Tensor

_ELEMENTS = 1 << 24
"""Elements that are read of a feature map at once."""


def _rows(boxes: Any) -> Tensor:
    """Boxes with the number of their picture in front [K, 5]."""
    if isinstance(boxes, Tensor):
        if boxes.ndim != 2 or boxes.shape[1] != 5:
            raise KilnValueError("roi", "The boxes tensor shape is not correct as Tensor[K, 5]", describe(boxes), "")  # fmt: skip
        return boxes
    for b in boxes:
        if b.ndim != 2 or b.shape[1] != 4:
            raise KilnValueError("roi", "The shape of the tensor in the boxes list is not correct as List[Tensor[L, 4]]", describe(b), "")  # fmt: skip
    numbers = [kiln.full((len(b), 1), float(i), dtype=b.dtype) for i, b in enumerate(boxes)]
    return kiln.cat([kiln.cat(numbers), kiln.cat(list(boxes))], 1)


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _taps(at: Tensor, size: int, within: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Between which two of `size` places a point lies, and their shares, 0 where it is not `within`."""
    at = at.clamp(min=0)
    low = at.floor().clamp(max=size - 1)
    share = kiln.where(low >= size - 1, kiln.zeros_like(at), at - low) * within
    return low.long(), (low + 1).clamp(max=size - 1).long(), within - share, share


def _sampled(input: Tensor, rows: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Values of the rows' pictures at a grid of points y [K, P], x [K, Q], between pixels: [K, C, P, Q]."""
    n, c, h, w = input.shape
    y0, y1, wy0, wy1 = _taps(y, h, ((y >= -1) & (y <= h)).to(input.dtype))
    x0, x1, wx0, wx1 = _taps(x, w, ((x >= -1) & (x <= w)).to(input.dtype))
    flat = input.permute(1, 0, 2, 3).reshape(c, n * h * w)
    start = rows[:, 0].long()[:, None] * h

    def at(ys: Tensor, xs: Tensor, wy: Tensor, wx: Tensor) -> Tensor:
        places = (start + ys)[:, :, None] * w + xs[:, None, :]
        return flat[:, places] * (wy[:, :, None] * wx[:, None, :])

    return (
        at(y0, x0, wy0, wx0) + at(y0, x1, wy0, wx1) + at(y1, x0, wy1, wx0) + at(y1, x1, wy1, wx1)
    ).transpose(0, 1)


def _aligned(
    input: Tensor, rows: Tensor, size: tuple[int, int], scale: float, ratio: int, offset: float, least: float | None,
) -> Tensor:  # fmt: skip
    corners = rows.detach()[:, 1:] * scale - offset
    start, extent = corners[:, :2], corners[:, 2:] - corners[:, :2]
    if least is not None:
        extent = extent.clamp(min=least)
    ph, pw = size
    bins = extent / kiln.tensor([pw, ph], dtype=corners.dtype)
    samples = [(ratio, ratio)] * len(rows)
    if ratio <= 0:
        counts = bins.ceil().long().clamp(min=0).tolist()
        samples = [(gy, gx) for gx, gy in counts]
    groups: dict[tuple[int, int], list[int]] = {}
    for i, g in enumerate(samples):
        groups.setdefault(g, []).append(i)
    parts, order = [], []
    for (gy, gx), members in groups.items():
        n = gy * ph * gx * pw
        step = max(1, _ELEMENTS // max(1, n * input.shape[1]))
        for at in range(0, len(members), step):
            who = kiln.tensor(members[at : at + step])
            order.append(who)
            if n == 0:
                parts.append(input.new_zeros((len(who), input.shape[1], ph, pw)))
                continue
            places = [
                start[who, d][:, None] + (kiln.arange(p * g, dtype=corners.dtype) + 0.5) / g * bins[who, d][:, None]
                for d, p, g in ((1, ph, gy), (0, pw, gx))
            ]  # fmt: skip
            values = _sampled(input, rows[who], places[0], places[1])
            parts.append(values.reshape(len(who), -1, ph, gy, pw, gx).mean((3, 5)))
    if not parts:
        return input.new_zeros((0, input.shape[1], ph, pw))
    return kiln.cat(parts)[kiln.cat(order).argsort()]


def roi_align(
    input: Tensor, boxes: Any, output_size: Any, spatial_scale: float = 1.0, sampling_ratio: int = -1, aligned: bool = False
) -> Tensor:  # fmt: skip
    """Means of points between pixels in a grid over each box [K, C, H, W] (He et al. 2017).

    `boxes` [K, 5] have the number of their picture in front, or are a list by picture. `sampling_ratio` points in each
    direction for each place, as many as there are pixels where it isn't above 0.
    """
    offset, least = (0.5, None) if aligned else (0.0, 1.0)
    size = _pair(output_size)
    return _aligned(input, _rows(boxes), size, spatial_scale, sampling_ratio, offset, least)


def ps_roi_align(
    input: Tensor,
    boxes: Any,
    output_size: Any,
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
) -> Tensor:
    """`roi_align` in which each place of the grid has channels of its own."""
    ph, pw = _pair(output_size)
    full = _aligned(input, _rows(boxes), (ph, pw), spatial_scale, sampling_ratio, 0.5, None)
    own = full.reshape(len(full), -1, ph, pw, ph, pw)
    return own.diagonal(dim1=2, dim2=4).diagonal(dim1=2, dim2=3)


def roi_pool(input: Tensor, boxes: Any, output_size: Any, spatial_scale: float = 1.0) -> Tensor:
    """The largest values in a grid over each box [K, C, H, W] (Girshick 2015)."""
    rows, (ph, pw) = _rows(boxes), _pair(output_size)
    h, w = input.shape[-2:]
    out = []

    def ends(start: int, extent: int, n: int, size: int) -> list[tuple[int, int]]:
        step = extent / n
        pairs = (
            (math.floor(i * step) + start, math.ceil((i + 1) * step) + start) for i in range(n)
        )
        return [(min(max(a, 0), size), min(max(b, 0), size)) for a, b in pairs]

    for row in rows.detach().tolist():
        x1, y1, x2, y2 = (math.floor(v * spatial_scale + 0.5) for v in row[1:])
        map_ = input[int(row[0])]
        ys, xs = ends(y1, max(y2 - y1 + 1, 1), ph, h), ends(x1, max(x2 - x1 + 1, 1), pw, w)
        for top, bottom in ys:
            for left, right in xs:
                part = map_[:, top:bottom, left:right].flatten(1)
                out.append(part.max(1).values if part.shape[1] else part.new_zeros(len(part)))
    if not out:
        return input.new_zeros((0, input.shape[1], ph, pw))
    return kiln.stack(out).reshape(len(rows), ph, pw, -1).permute(0, 3, 1, 2)


def deform_conv2d(
    input: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = (1, 1), padding: Any = (0, 0),
    dilation: Any = (1, 1), mask: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """A convolution each tap of which is moved by `offset` and weighted by `mask` (Dai et al. 2017, Zhu et al. 2019)."""
    (sy, sx), (py, px), (dy, dx) = map(_pair, (stride, padding, dilation))
    n, c, h, w = input.shape
    kh, kw = weight.shape[-2:]
    taps = kh * kw
    high, wide = (
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, p, d, k, s in ((h, py, dy, kh, sy), (w, px, dx, kw, sx))
    )
    groups = offset.shape[1] // (2 * taps)
    if groups == 0 or tuple(offset.shape) != (n, 2 * groups * taps, high, wide) or c % groups:
        raise KilnValueError(
            "deform_conv2d", "the shape of the offset tensor at dimension 1 is not valid. It should be a multiple of "
            "2 * weight.size[2] * weight.size[3]", describe(offset), f"[{n}, {2 * taps} * groups, {high}, {wide}]",
        )  # fmt: skip
    moved = offset.reshape(n, groups, taps, 2, high, wide)
    ys = (kiln.arange(high) * sy - py)[:, None] + (kiln.arange(kh) * dy).repeat_interleave(kw)[
        :, None, None
    ]
    xs = kiln.arange(wide) * sx - px + (kiln.arange(kw) * dx).repeat(kh)[:, None, None]
    y, x = moved[:, :, :, 0] + ys, moved[:, :, :, 1] + xs
    flat = input.reshape(n, groups, c // groups, h * w)
    cols: Any = 0
    for oy in (0, 1):
        for ox in (0, 1):
            at_y, at_x = y.floor() + oy, x.floor() + ox
            there = (at_y >= 0) & (at_y < h) & (at_x >= 0) & (at_x < w)
            share = (1 - (y - at_y).abs()) * (1 - (x - at_x).abs()) * there
            place = (at_y.clamp(0, h - 1) * w + at_x.clamp(0, w - 1)).long()
            place = place.reshape(n, groups, 1, -1).expand(-1, -1, c // groups, -1)
            cols = cols + flat.gather(3, place) * share.reshape(n, groups, 1, -1)
    if mask is not None:
        cols = cols * mask.reshape(n, groups, 1, -1)
    split = c // weight.shape[1]
    cols = cols.reshape(n, split, weight.shape[1] * taps, high * wide)
    out = weight.reshape(split, -1, weight.shape[1] * taps) @ cols
    out = out.reshape(n, -1, high, wide)
    return out if bias is None else out + bias[:, None, None]


class _Regions(nn.Module):
    """A function of regions with fixed options, as a layer."""

    _fn: Callable
    _names: tuple[str, ...]

    def __init__(self, output_size: Any, spatial_scale: float, *more: Any, **named: Any) -> None:
        super().__init__()
        values = (output_size, spatial_scale, *more)
        self.options = dict(zip(self._names, values, strict=False)) | named
        self.__dict__.update(self.options)

    def forward(self, input: Tensor, rois: Any) -> Tensor:
        return type(self)._fn(input, rois, **self.options)

    def extra_repr(self) -> str:
        return ", ".join(f"{k}={v}" for k, v in self.options.items())


class RoIAlign(_Regions):
    """`roi_align` as a layer."""

    _fn = staticmethod(roi_align)
    _names = ("output_size", "spatial_scale", "sampling_ratio", "aligned")


class PSRoIAlign(_Regions):
    """`ps_roi_align` as a layer."""

    _fn = staticmethod(ps_roi_align)
    _names = ("output_size", "spatial_scale", "sampling_ratio")


class RoIPool(_Regions):
    """`roi_pool` as a layer."""

    _fn = staticmethod(roi_pool)
    _names = ("output_size", "spatial_scale")


class DeformConv2d(nn.Module):
    """`deform_conv2d` as a layer, which is given the offsets."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
        groups: int = 1, bias: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride = _pair(kernel_size), _pair(stride)
        self.padding, self.dilation = _pair(padding), _pair(dilation)
        like = nn.Conv2d(in_channels, out_channels, self.kernel_size, groups=groups, bias=bias)
        self.weight, self.bias = like.weight, like.bias

    def forward(self, input: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        return deform_conv2d(
            input, offset, self.weight, self.bias, self.stride, self.padding, self.dilation, mask
        )

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"


# ---------------------------------------------------------------- pyramids


class LastLevelMaxPool(nn.Module):
    """One more level of a pyramid: every second place of the last."""

    def forward(self, x: list[Tensor], y: list[Tensor], names: list[str]) -> Any:
        return [*x, F.max_pool2d(x[-1], 1, 2, 0)], [*names, "pool"]


class LastLevelP6P7(nn.Module):
    """Two more levels of a pyramid, of the last one's channels."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.p6 = nn.Conv2d(in_channels, out_channels, 3, 2, 1)
        self.p7 = nn.Conv2d(out_channels, out_channels, 3, 2, 1)
        for m in (self.p6, self.p7):
            nn.init.kaiming_uniform_(m.weight, a=1)
            nn.init.constant_(m.bias, 0)  # type: ignore[arg-type]
        self.use_P5 = in_channels == out_channels

    def forward(self, p: list[Tensor], c: list[Tensor], names: list[str]) -> Any:
        p6 = self.p6(p[-1] if self.use_P5 else c[-1])
        return [*p, p6, self.p7(F.relu(p6))], [*names, "p6", "p7"]


class FeaturePyramidNetwork(nn.Module):
    """Feature maps of several sizes, each joined with the next smaller one (Lin et al. 2017)."""

    def __init__(
        self, in_channels_list: Sequence[int], out_channels: int, extra_blocks: nn.Module | None = None,
        norm_layer: Callable[..., nn.Module] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        from .ops import Conv2dNormActivation

        def block(inputs: int, kernel: int) -> nn.Module:
            return Conv2dNormActivation(
                inputs, out_channels, kernel, norm_layer=norm_layer, activation_layer=None
            )

        if 0 in in_channels_list:
            raise KilnValueError("FeaturePyramidNetwork", "in_channels=0 is currently not supported", list(in_channels_list), "")  # fmt: skip
        self.inner_blocks = nn.ModuleList(block(c, 1) for c in in_channels_list)
        self.layer_blocks = nn.ModuleList(block(out_channels, 3) for _ in in_channels_list)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_uniform_(m.weight, a=1)
                if m.bias is not None:
                    nn.init.zeros_(m.bias)
        self.extra_blocks = extra_blocks

    def forward(self, x: dict[str, Tensor]) -> OrderedDict[str, Tensor]:
        names, maps = list(x), list(x.values())
        inner = self.inner_blocks[-1](maps[-1])
        results = [self.layer_blocks[-1](inner)]
        for i in reversed(range(len(maps) - 1)):
            lateral = self.inner_blocks[i](maps[i])
            inner = lateral + F.interpolate(inner, size=lateral.shape[-2:], mode="nearest")
            results.insert(0, self.layer_blocks[i](inner))
        if self.extra_blocks is not None:
            results, names = self.extra_blocks(results, maps, names)
        return OrderedDict(zip(names, results, strict=True))


class MultiScaleRoIAlign(nn.Module):
    """`roi_align` of each box in the map of a pyramid that suits its size."""

    def __init__(
        self, featmap_names: Sequence[str], output_size: Any, sampling_ratio: int, *, canonical_scale: int = 224,
        canonical_level: int = 4,
    ) -> None:  # fmt: skip
        super().__init__()
        self.featmap_names, self.output_size = list(featmap_names), _pair(output_size)
        self.sampling_ratio, self.canonical_scale = sampling_ratio, canonical_scale
        self.canonical_level = canonical_level

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: Any) -> Tensor:
        maps = [x[n] for n in self.featmap_names if n in x]
        largest = [max(s[i] for s in image_shapes) for i in (0, 1)]
        scales = [2.0 ** round(math.log2(m.shape[-2] / largest[0])) for m in maps]
        rows = _rows(boxes)
        if len(maps) == 1:
            return roi_align(maps[0], rows, self.output_size, scales[0], self.sampling_ratio)
        side = ((rows[:, 3] - rows[:, 1]) * (rows[:, 4] - rows[:, 2])).sqrt()
        low, high = (-math.log2(s) for s in (scales[0], scales[-1]))
        level = kiln.floor(self.canonical_level + kiln.log2(side / self.canonical_scale) + 1e-6)
        level = (level.clamp(low, high) - low).long()
        parts, order = [], []
        for i, (m, scale) in enumerate(zip(maps, scales, strict=True)):
            who = kiln.where(level == i)[0]
            order.append(who)
            parts.append(roi_align(m, rows[who], self.output_size, scale, self.sampling_ratio))
        return kiln.cat(parts)[kiln.cat(order).argsort()]


__all__ = [
    "DeformConv2d", "FeaturePyramidNetwork", "LastLevelMaxPool", "LastLevelP6P7", "MultiScaleRoIAlign", "PSRoIAlign",
    "RoIAlign", "RoIPool", "deform_conv2d", "ps_roi_align", "roi_align", "roi_pool",
]  # fmt: skip
