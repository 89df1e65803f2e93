"""Kiln: shape eagerly, fire once, ship anywhere.

A deep-learning framework in Python with PyTorch's API, whole-graph compilation and kernels
generated through LLVM. Functions on tensors are derived from the op registry (`kiln.ops`).
"""

from __future__ import annotations

import importlib
import math as _math
from typing import TYPE_CHECKING, Any

from . import dtypes as _dtypes
from . import formats as _formats
from . import ops  # noqa: F401  (defines every op)
from .autograd.modes import (
    enable_grad,
    inference_mode,
    is_grad_enabled,
    is_inference_mode_enabled,
    no_grad,
    set_grad_enabled,
)
from .backends import eager as _eager  # noqa: F401  (gives ops their native routines)
from .device import device
from .dtypes import (
    can_cast,
    dtype,
    finfo,
    get_default_dtype,
    iinfo,
    promote_types,
    result_type,
    set_default_dtype,
)
from .errors import CaptureError, KilnError, KilnMemoryError, KilnWarning
from .formats import layout, memory_format
from .ops.legacy import (
    BFloat16Tensor,
    BoolTensor,
    ByteTensor,
    CharTensor,
    DoubleTensor,
    FloatTensor,
    HalfTensor,
    IntTensor,
    LongTensor,
    ShortTensor,
)
from .ops.registry import FUNCTIONS as _FUNCTIONS
from .shape import Size, broadcast_shapes
from .tensor import Tensor

if TYPE_CHECKING:
    from . import (  # noqa: F401
        autograd,
        cpu,
        data,
        distributions,
        fft,
        func,
        io,
        linalg,
        masked,
        multiprocessing,
        nested,
        nn,
        optim,
        random,
        serialization,
        signal,
        sparse,
        special,
        train,
    )
    from .compile import compile  # noqa: F401
    from .compile.control import cond, scan, while_loop  # noqa: F401
    from .compile.scans import associative_scan, map  # noqa: F401
    from .func import vmap  # noqa: F401

__version__ = "0.1.0"

globals().update({name: fn for name, fn in _FUNCTIONS.items() if "." not in name})
globals().update(_dtypes.BY_NAME)  # kiln.bool, kiln.float32, …
globals().update(_dtypes.ALIASES)  # kiln.float, kiln.long, …

OutOfMemoryError = KilnMemoryError
inf, nan, pi, e, newaxis = _math.inf, _math.nan, _math.pi, _math.e, None
globals().update(_formats.BY_NAME)  # kiln.strided, kiln.channels_last, …

# Modules and functions that are imported when first used, so that `import kiln` stays quick.
_LAZY_MODULES = {
    "_C", "_dynamo", "_higher_order_ops", "_inductor", "_jit_internal", "_six", "_utils", "accelerator",
    "amp", "array_api", "autograd", "backends", "board", "cli", "compat", "compiler", "config", "cpu", "cuda",
    "classes", "data", "datasets", "debugging", "distributed", "distributions", "export", "fft", "func", "functional", "futures",
    "fx", "graph", "hub", "inspection", "io", "jit", "keras", "library", "linalg", "masked", "metrics", "mps", "mtia", "multiprocessing",
    "naming", "nested", "nn", "onnx", "optim", "overrides", "package", "profiler", "quantization", "random", "return_types", "runtime",
    "serialization", "signal", "sparse", "special", "symbols", "testing", "torch_version", "train", "transforms", "types", "utils",
    "version", "vision", "xpu",
}  # fmt: skip
_LAZY_NAMES = {
    "Node": "_C", "PyTorchFileReader": "_C", "PyTorchFileWriter": "_C", "Future": "futures", "Event": "streams", "Stream": "streams", "is_inference": "switches",
    **dict.fromkeys(("ScriptModule", "ScriptFunction", "fork", "wait"), "jit"),
    **dict.fromkeys((
        "SymBool", "SymFloat", "SymInt", "sym_float", "sym_int", "sym_ite", "sym_max", "sym_min", "sym_not", "sym_sqrt", "sym_sum",
    ), "symbols"),
    **dict.fromkeys((
        "qint8", "qint32", "quint8", "quint4x2", "quint2x4", "per_tensor_affine", "per_tensor_symmetric", "per_channel_affine",
        "per_channel_symmetric", "quantize_per_tensor", "quantize_per_channel", "quantize_per_tensor_dynamic", "q_scale",
        "q_zero_point", "int_repr", "q_per_channel_axis", "q_per_channel_scales", "q_per_channel_zero_points",
    ), "quantization"),
    **dict.fromkeys((
        "_scaled_mm", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu",
        "complex32", "chalf",
    ), "float8"),
    "vmap": "func", "is_anomaly_enabled": "autograd.anomaly", "set_anomaly_enabled": "autograd.anomaly",
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), "nn.recurrent"),
    "is_anomaly_check_nan_enabled": "autograd.anomaly", "scan": "compile.control", "cond": "compile.control", "while_loop": "compile.control",
    "watch": "debugging", "memory_report": "debugging", "map": "compile.scans", "associative_scan": "compile.scans",
    "compile": "compile", "summary": "inspection", "draw": "inspection", "save": "io", "load": "io", "Trainer": "train", "set_printoptions": "printing",
    "set_num_threads": "runtime.threads", "get_num_threads": "runtime.threads", "Generator": "random",
    "manual_seed": "random", "seed": "random", "initial_seed": "random", "get_rng_state": "random",
    "set_rng_state": "random", "default_generator": "random",
    **dict.fromkeys(("sparse_coo_tensor", "sparse_csr_tensor", "sparse_csc_tensor", "sparse_bsr_tensor", "sparse_bsc_tensor", "sparse_compressed_tensor", "spmm", "smm", "hspmm", "sspaddmm"), "sparse"),
    **dict.fromkeys(("_convert_indices_from_coo_to_csr", "_convert_indices_from_csr_to_coo"), "sparse.convert"),
    **{n + "Storage": "storage" for n in (
        "ComplexDouble", "ComplexFloat", "Untyped", "Typed", "Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool",
    )},
    "GradScaler": "amp", "autocast": "amp",
    **dict.fromkeys((
        "autocast_decrement_nesting", "autocast_increment_nesting", "clear_autocast_cache", "get_autocast_cpu_dtype",
        "get_autocast_dtype", "get_autocast_gpu_dtype", "is_autocast_available", "is_autocast_cache_enabled",
        "is_autocast_cpu_enabled", "is_autocast_enabled", "set_autocast_cache_enabled", "set_autocast_cpu_dtype",
        "set_autocast_cpu_enabled", "set_autocast_dtype", "set_autocast_enabled", "set_autocast_gpu_dtype",
    ), "amp.autocast_mode"),
    "set_float32_matmul_precision": "config", "get_float32_matmul_precision": "config",
    **dict.fromkeys((
        "alias_copy", "as_strided_copy", "detach_copy", "expand_copy", "permute_copy", "select_copy", "slice_copy",
        "split_copy", "split_with_sizes_copy", "squeeze_copy", "t_copy", "transpose_copy", "unbind_copy", "unfold_copy",
        "unsqueeze_copy", "view_copy", "view_as_complex_copy", "view_as_real_copy",
    ), "ops.copies"),
    **dict.fromkeys((
        "_check", "_check_index", "_check_is_size", "_check_not_implemented", "_check_tensor_all", "_check_tensor_all_with",
        "_check_type", "_check_value", "_check_with",
    ), "checking"),
    "is_storage": "storage",
    **dict.fromkeys((
        "AcceleratorError", "compiled_with_cxx11_abi", "get_file_path", "has_lapack", "has_mkl", "has_openmp", "has_spectral",
        "init_num_threads", "is_vulkan_available", "prepare_multiprocessing_environment",
    ), "building"),
    "DisableTorchFunction": "overrides", "DisableTorchFunctionSubclass": "overrides", "JITException": "jit",
    **dict.fromkeys((
        "_assert_async", "are_deterministic_algorithms_enabled", "get_default_device", "get_device_module", "get_deterministic_debug_mode",
        "get_num_interop_threads", "is_deterministic_algorithms_warn_only_enabled", "is_warn_always_enabled",
        "set_default_device", "set_default_tensor_type", "set_deterministic_debug_mode", "set_flush_denormal",
        "set_num_interop_threads", "set_warn_always", "typename", "use_deterministic_algorithms",
    ), "switches"),
    **dict.fromkeys((
        "adaptive_max_pool1d", "affine_grid_generator", "alpha_dropout", "alpha_dropout_", "binary_cross_entropy_with_logits",
        "constant_pad_nd", "conv_tbc", "convolution", "cosine_embedding_loss", "ctc_loss", "dropout", "dropout_", "embedding", "embedding_bag", "embedding_renorm_",
        "feature_alpha_dropout", "feature_alpha_dropout_", "feature_dropout", "feature_dropout_", "frobenius_norm",
        "grid_sampler", "grid_sampler_2d", "grid_sampler_3d", "gru_cell", "hinge_embedding_loss", "instance_norm", "kl_div",
        "lstm_cell", "margin_ranking_loss", "max_pool1d_with_indices", "native_batch_norm", "native_channel_shuffle",
        "native_dropout", "native_group_norm", "native_layer_norm", "_softmax_backward_data", "norm_except_dim", "nuclear_norm", "poisson_nll_loss",
        "rnn_relu_cell", "rnn_tanh_cell", "rrelu", "rrelu_", "triplet_margin_loss",
    ), "ops.native"),
    **{f"_foreach_{n}": "ops.foreach" for stem in ["abs", "acos", "add", "addcdiv", "addcmul", "asin", "atan", "ceil", "clamp_max", "clamp_min", "cos", "cosh", "div", "erf", "erfc", "exp", "expm1", "floor", "frac", "lerp", "lgamma", "log", "log10", "log1p", "log2", "maximum", "minimum", "mul", "neg", "pow", "reciprocal", "round", "rsqrt", "sigmoid", "sign", "sin", "sinh", "sqrt", "sub", "tan", "tanh", "trunc"] for n in (stem, stem + "_")},
    **dict.fromkeys((
        "_foreach_clone", "_foreach_copy_", "_foreach_max", "_foreach_mm", "_foreach_norm", "_foreach_powsum", "_foreach_zero_",
    ), "ops.foreach"),
    "fake_quantize_per_channel_affine": "ops.fake_quantize", "fake_quantize_per_tensor_affine": "ops.fake_quantize",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _LAZY_NAMES:
        value = getattr(importlib.import_module(f".{_LAZY_NAMES[name]}", __name__), name)
    elif name in _LAZY_MODULES:
        value = importlib.import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module 'kiln' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY_MODULES, *_LAZY_NAMES})


def is_tensor(obj: Any) -> bool:
    """Whether an object is a Tensor."""
    return isinstance(obj, Tensor)


def numel(input: Tensor) -> int:
    """The number of elements."""
    return input.numel()


def is_floating_point(input: Tensor) -> bool:
    """Whether a tensor's dtype is floating."""
    return input.is_floating_point()


def is_complex(input: Tensor) -> bool:
    """Whether a tensor's dtype is complex."""
    return input.is_complex()


def is_nonzero(input: Tensor) -> bool:
    """Whether a one-element tensor is not zero."""
    return input.__bool__()


def equal(input: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same shape and elements."""
    return input.shape == other.shape and (input == other).all().item()


def allclose(
    input: Tensor, other: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> bool:
    """Whether all elements are close, see `isclose`."""
    return input.isclose(other, rtol, atol, equal_nan).all().item()


Tensor.equal = equal  # type: ignore[attr-defined]
Tensor.allclose = allclose  # type: ignore[attr-defined]
Tensor.is_nonzero = is_nonzero  # type: ignore[attr-defined]


def _assert(condition: Any, message: str) -> None:
    """`assert` as a function, which programs call where a statement would be in the way."""
    assert condition, message


__all__ = [
    "BFloat16Tensor", "BoolTensor", "ByteTensor", "CharTensor", "DoubleTensor", "FloatTensor", "HalfTensor",
    "IntTensor", "LongTensor", "ShortTensor", "CaptureError", "KilnError", "KilnWarning", "Size", "Tensor", "broadcast_shapes", "can_cast",
    "device", "dtype", "enable_grad", "finfo", "get_default_dtype", "iinfo", "inference_mode",
    "is_grad_enabled", "is_inference_mode_enabled", "no_grad", "promote_types", "result_type",
    "set_default_dtype", "set_grad_enabled", *[n for n in _FUNCTIONS if "." not in n],
    "layout", "memory_format", *_dtypes.BY_NAME, *_dtypes.ALIASES, *_formats.BY_NAME,
]  # fmt: skip
