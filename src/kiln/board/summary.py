"""TensorBoard's summaries as bytes, each made by a function with PyTorch's name for it.

https://github.com/tensorflow/tensorboard/blob/master/tensorboard/compat/proto/summary.proto
"""

from __future__ import annotations

import io
import json
import wave
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import KilnTypeError, KilnValueError, describe
from . import pictures
from .pictures import array
from .wire import data, double, each, integer, mapping, packed, single, varint
from .wire import text as text_field

FLOAT, DOUBLE, STRING = 1, 2, 7
_TYPES = {
    "float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int16": 5, "int8": 6, "complex64": 8, "int64": 9, "bool": 10,
    "bfloat16": 14, "uint16": 17, "complex128": 18, "float16": 19, "uint32": 22, "uint64": 23,
}  # fmt: skip


def value(tag: str, *content: bytes) -> bytes:
    """A summary of one value."""
    return data(1, data(1, tag) + b"".join(content))


def plugin(name: str, content: bytes = b"", display_name: str = "", description: str = "") -> bytes:
    """What says which of TensorBoard's tabs shows a value."""
    named = data(1, name) + (data(2, content) if content else b"")
    return data(9, data(1, named) + text_field(2, display_name) + text_field(3, description))


def shape_of(shape: Sequence[int]) -> bytes:
    """A shape's message."""
    return each(2, (integer(1, n) for n in shape))


def tensor(kind: int, content: bytes, shape: Sequence[int]) -> bytes:
    """A value's tensor: its dtype, its elements' field and its shape."""
    return data(8, integer(1, kind) + data(2, shape_of(shape)) + content)


def number(x: Any, op: str) -> float:
    """One number of what holds one."""
    try:
        a = array(x)
        return float(a.reshape(()) if a.size == 1 else a)
    except (TypeError, ValueError):
        raise KilnTypeError(
            op, "the value is not one number", describe(x), "pass x.mean()"
        ) from None


def scalar(
    name: str, tensor: Any, collections: Any = None, new_style: bool = False,
    double_precision: bool = False,
) -> bytes:  # fmt: skip
    """A point of a curve."""
    x = number(tensor, "add_scalar")
    if not new_style:
        return value(name, single(2, x))
    if double_precision:
        content = integer(1, DOUBLE) + packed(6, [x], "<f8")
    else:
        content = integer(1, FLOAT) + packed(5, [x], "<f4")
    return value(name, data(8, content), plugin("scalars"))


def tensor_proto(tag: str, tensor: Any) -> bytes:
    """A tensor's elements."""
    a = np.ascontiguousarray(array(tensor))
    kind = _TYPES.get(a.dtype.name)
    if kind is None:
        raise KilnValueError(
            "add_tensor", f"tensors of {a.dtype.name} can't be shown", describe(tensor), ""
        )
    if a.nbytes >= 2**31:
        raise KilnValueError(
            "add_tensor", "tensor is bigger than protocol buffer's hard limit of 2GB in size",
            describe(tensor), "show a part of it",
        )  # fmt: skip
    message = integer(1, kind) + data(2, shape_of(np.shape(tensor))) + data(4, a.tobytes())
    return value(tag, data(8, message), plugin("tensor"))


# ---------------------------------------------------------------- distributions


def default_bins() -> list[float]:
    """Edges that grow by a tenth from one to the next, both ways from 0."""
    edge, up = 1e-12, []
    while edge < 1e20:
        up.append(edge)
        edge *= 1.1
    return [-x for x in reversed(up)] + [0] + up


def histogram(name: str, values: Any, bins: Any, max_bins: int | None = None) -> bytes:
    """How values are distributed; `bins` are edges, a number of them, or one of NumPy's rules."""
    a = array(values).reshape(-1).astype(np.float64)
    if a.size == 0:
        raise KilnValueError("add_histogram", "The input has no element.", describe(values), "")
    counts, edges = np.histogram(a, bins=bins)
    if max_bins is not None and len(counts) > max_bins:
        step = len(counts) // max_bins
        counts = np.add.reduceat(counts, np.arange(0, len(counts), step))
        edges = np.append(edges[:-1:step], edges[-1])
    (used,) = np.nonzero(counts)
    if not used.size:
        raise KilnValueError(
            "add_histogram", "no value lies in a bin", describe(values), "other bins"
        )
    first, last = used[0], used[-1]
    # buckets are told by their upper edges: an empty one before the first tells its lower edge
    return histogram_raw(
        name, a.min(), a.max(), a.size, a.sum(), a.dot(a), edges[first : last + 2],
        [0, *counts[first : last + 1]],
    )  # fmt: skip


def histogram_raw(
    name: str, min: Any, max: Any, num: Any, sum: Any, sum_squares: Any, bucket_limits: Any,
    bucket_counts: Any,
) -> bytes:  # fmt: skip
    """A histogram whose figures are known."""
    figures = (min, max, num, sum, sum_squares)
    message = b"".join(double(i, float(x)) for i, x in enumerate(figures, 1))
    return value(
        name, data(5, message + packed(6, bucket_limits, "<f8") + packed(7, bucket_counts, "<f8"))
    )


def pr_curve(
    tag: str, labels: Any, predictions: Any, num_thresholds: int = 127, weights: Any = None
) -> bytes:
    """Precision and recall at each of as many thresholds."""
    n = min(num_thresholds, 127)
    truth = array(labels).astype(np.float64).reshape(-1)
    share = 1.0 if weights is None else array(weights).reshape(-1)
    at = np.floor(array(predictions).reshape(-1) * (n - 1)).astype(np.int32)

    def above(amounts: Any) -> np.ndarray:
        """The sum of amounts at or above each threshold."""
        counts, _ = np.histogram(at, bins=n, range=(0, n - 1), weights=amounts)
        return np.cumsum(counts[::-1])[::-1]

    tp, fp = above(truth * share), above((1.0 - truth) * share)
    fn = tp[0] - tp
    rows = (tp, fp, fp[0] - fp, fn, tp / np.maximum(1e-7, tp + fp), tp / np.maximum(1e-7, tp + fn))
    return pr_curve_raw(tag, *rows, num_thresholds=n)


def pr_curve_raw(
    tag: str, tp: Any, fp: Any, tn: Any, fn: Any, precision: Any, recall: Any, num_thresholds: int = 127,
    weights: Any = None,
) -> bytes:  # fmt: skip
    """A precision-recall curve whose figures are known."""
    n = min(num_thresholds, 127)
    rows = np.stack([array(x) for x in (tp, fp, tn, fn, precision, recall)])
    shown = plugin("pr_curves", integer(2, n))
    return value(tag, tensor(FLOAT, packed(5, rows.reshape(-1), "<f4"), rows.shape), shown)


# ---------------------------------------------------------------- pictures, sound, text


def image(tag: str, tensor: Any, rescale: float = 1, dataformats: str = "NCHW") -> bytes:
    """A picture, or several as a grid."""
    a = pictures.rescaled(pictures.as_rows(tensor, dataformats, "add_image"), rescale)
    return value(tag, data(4, pictures.image(a)))


def image_boxes(
    tag: str, tensor_image: Any, tensor_boxes: Any, rescale: float = 1, dataformats: str = "CHW",
    labels: Sequence[str] | None = None,
) -> bytes:  # fmt: skip
    """A picture with boxes (left, top, right, bottom) on it."""
    a = pictures.as_rows(tensor_image, dataformats, "add_image_with_boxes")
    a = pictures.rescaled(pictures.with_boxes(a, array(tensor_boxes), labels), rescale)
    return value(tag, data(4, pictures.image(a)))


def animation(tensor: Any, fps: float) -> tuple[np.ndarray, bytes]:
    """Videos [N, T, C, H, W] side by side: the frames [T, H', W', C], and their GIF file."""
    a = array(tensor)
    if a.ndim != 5:
        raise KilnValueError("add_video", "a video is [N, T, C, H, W]", describe(tensor), "")
    frames = pictures.frames(a)
    return frames, pictures.gif(frames, fps)


def video(tag: str, tensor: Any, fps: float = 4) -> bytes:
    """Videos [N, T, C, H, W], side by side, as a GIF."""
    frames, encoded = animation(tensor, fps)
    return value(tag, data(4, pictures.image(frames[0], encoded)))


def wav(tensor: Any, sample_rate: int) -> tuple[bytes, int]:
    """The WAV file of sound in [-1, 1], as 16-bit samples, and how many these are."""
    a = array(tensor).squeeze()
    if a.ndim != 1:
        raise KilnValueError(
            "add_audio", "input tensor should be 1 dimensional.", describe(tensor), ""
        )
    samples = (a.clip(-1, 1) * 32767).astype("<i2")
    out = io.BytesIO()
    with wave.open(out, "wb") as f:
        f.setnchannels(1)
        f.setsampwidth(2)
        f.setframerate(int(sample_rate))
        f.writeframes(samples.tobytes())
    return out.getvalue(), len(samples)


def audio(tag: str, tensor: Any, sample_rate: int = 44100) -> bytes:
    """Sound in [-1, 1]."""
    content, length = wav(tensor, sample_rate)
    sound = single(1, sample_rate) + integer(2, 1) + integer(3, length)
    return value(tag, data(6, sound + data(4, content) + data(5, "audio/wav")))


def text(tag: str, text: str) -> bytes:
    """A text in Markdown."""
    return value(f"{tag}/text_summary", plugin("text"), tensor(STRING, each(8, [str(text)]), (1,)))


# ---------------------------------------------------------------- hyper-parameters


def hparams(
    hparam_dict: dict[str, Any] | None = None, metric_dict: dict[str, Any] | None = None,
    hparam_domain_discrete: dict[str, list] | None = None,
) -> tuple[bytes, bytes, bytes]:  # fmt: skip
    """The summaries of an experiment, of its session's start and of its end."""
    domains = hparam_domain_discrete or {}
    for what, given in (
        ("hparam_dict", hparam_dict), ("metric_dict", metric_dict), ("hparam_domain_discrete", domains),
    ):  # fmt: skip
        if not isinstance(given, dict):
            raise KilnTypeError(
                "add_hparams", f"{what} should be a dictionary", describe(given), ""
            )
    assert hparam_dict is not None
    assert metric_dict is not None
    for k, v in domains.items():
        if (
            k not in hparam_dict
            or not isinstance(v, list)
            or any(not isinstance(d, type(hparam_dict[k])) for d in v)
        ):
            raise KilnTypeError(
                "add_hparams", f"hparam_domain_discrete[{k}] should be a list of same type as hparam_dict[{k}].",
                describe(v), "",
            )  # fmt: skip
    infos, start = [], []
    for k, v in hparam_dict.items():
        if v is None:
            continue
        kind, made = _hparam(v)
        domain = data(5, each(1, (_hparam(d)[1] for d in domains[k]))) if k in domains else b""
        infos.append(data(1, k) + integer(4, kind) + domain)
        start.append((k, made))
    metrics = (data(1, data(2, k)) for k in metric_dict)
    experiment = each(4, infos) + each(5, metrics)

    def summary(tag: str, field: int, message: bytes) -> bytes:
        return value(f"_hparams_/{tag}", plugin("hparams", data(field, message)))

    return (
        summary("experiment", 2, experiment),
        summary("session_start_info", 3, mapping(1, start)),
        summary("session_end_info", 4, integer(1, 1)),
    )


def _hparam(v: Any) -> tuple[int, bytes]:
    """A hyper-parameter's type and value: text 1, bool 2, number 3."""
    if isinstance(v, bool):
        return 2, varint(4 << 3) + varint(v)
    if isinstance(v, str):
        return 1, data(3, v)
    if isinstance(v, int | float | np.generic) or hasattr(v, "detach"):
        return 3, double(2, number(v, "add_hparams"))
    raise KilnValueError(
        "add_hparams",
        "value should be one of int, float, str, bool, or torch.Tensor",
        describe(v),
        "",
    )


# ---------------------------------------------------------------- layouts, meshes


def custom_scalars(layout: Mapping[str, Mapping[str, Sequence[Any]]]) -> bytes:
    """Which curves stand in one chart: {category: {title: ["Multiline" or "Margin", tags]}}."""
    categories = []
    for category, charts in layout.items():
        made = []
        for title, (kind, tags) in charts.items():
            if kind == "Margin":
                if len(tags) != 3:
                    raise KilnValueError(
                        "add_custom_scalars",
                        "a margin has three tags: value, lower, upper",
                        tags,
                        "",
                    )
                series = b"".join(data(i, t) for i, t in enumerate(tags, 1))
                made.append(data(1, title) + data(3, data(1, series)))
            else:
                made.append(data(1, title) + data(2, each(1, tags)))
        categories.append(data(1, category) + each(2, made))
    content = tensor(STRING, each(8, [each(2, categories)]), ())
    return value("custom_scalars__config__", content, plugin("custom_scalars"))


def mesh(
    tag: str, vertices: Any, colors: Any = None, faces: Any = None, config_dict: Any = None,
    display_name: str = "", description: str = "",
) -> bytes:  # fmt: skip
    """Points or triangles in space, in batches."""
    parts = [(1, "VERTEX", vertices), (2, "FACE", faces), (3, "COLOR", colors)]
    given = [(kind, name, array(x)) for kind, name, x in parts if x is not None]
    components = sum(1 << kind for kind, _, _ in given)
    config = "{}" if config_dict is None else json.dumps(config_dict, sort_keys=True)
    out = b""
    for kind, name, a in given:
        if a.ndim != 3:
            raise KilnValueError("add_mesh", f"{name} must be [batch, count, 3]", list(a.shape), "")
        about = (
            data(2, tag) + integer(3, kind) + data(5, config) + packed(6, a.shape, "varint")
            + integer(7, components)
        )  # fmt: skip
        out += value(
            f"{tag}_{name}",
            tensor(FLOAT, packed(5, a.reshape(-1), "<f4"), a.shape),
            plugin("mesh", about, display_name, description),
        )
    return out


def graph(
    nodes: Sequence[tuple[str, str, Sequence[str], Mapping[str, Any], Sequence[Sequence[int]]]],
) -> bytes:
    """A graph's message: of each node its name, op, inputs, attributes and its outputs' shapes."""
    out = []
    for name, op, inputs, attributes, shapes in nodes:
        held: list[tuple[str, bytes]] = [(k, data(2, str(v))) for k, v in attributes.items()]
        held.append(("_output_shapes", data(1, each(7, map(shape_of, shapes)))))
        out.append(data(1, name) + data(2, op) + each(3, inputs) + mapping(5, held))
    return each(1, out) + data(4, integer(1, 22))
