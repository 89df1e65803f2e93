"""PyTorch's quantisation (`torch.ao`, `torch.quantization`, `torch.nn.quantized`, …): its names can be imported, and say that they are not built.

Weights in int8 with scales of their own are plain tensors: `kiln._int_mm` multiplies them.
"""

from __future__ import annotations

from typing import Any

from .refusal import Room, refuse

_HELP = "use kiln.bfloat16, or int8 tensors with scales of their own (kiln._int_mm)"
_room = Room("kiln.quantization", "quantised tensors and modules", _HELP)

DTYPES = "qint8 qint32 quint8 quint4x2 quint2x4 bits8 bits16 bits1x8 bits2x4 bits4x2"
FUNCTIONS = (
    "quantize_per_tensor quantize_per_channel quantize_per_tensor_dynamic quantized_batch_norm quantized_max_pool1d "
    "quantized_max_pool2d quantized_max_pool3d quantized_gru quantized_lstm quantized_gru_cell quantized_lstm_cell "
    "quantized_rnn_relu_cell quantized_rnn_tanh_cell fused_moving_avg_obs_fake_quant choose_qparams_optimized empty_quantized "
    "q_per_channel_axis q_per_channel_scales q_per_channel_zero_points q_scale q_zero_point int_repr qscheme "
    "per_tensor_affine per_tensor_symmetric per_channel_affine per_channel_symmetric per_channel_affine_float_qparams"
)
NAMES = f"{DTYPES} {FUNCTIONS}".split()
"""Those that `torch` itself has."""

refuse(__name__, " ".join(NAMES), "quantised tensors", _HELP)


def __getattr__(name: str) -> Any:
    return getattr(_room, name)
