"""Choosing among CUDA's kernels by their speed: off, as there is no such device."""

from ..accelerator import constant, nothing

is_enabled, tuning_is_enabled, record_untuned_is_enabled = (
    constant(n, bool, "Whether it is on: False.") for n in ("is_enabled", "tuning_is_enabled", "record_untuned_is_enabled")
)  # fmt: skip
for _name in (
    "enable", "get_filename", "get_max_tuning_duration", "get_max_tuning_iterations", "get_results", "get_validators",
    "get_rotating_buffer_size", "mgpu_tune_gemm_in_file", "read_file", "record_untuned_enable", "set_filename",
    "set_max_tuning_duration", "set_max_tuning_iterations", "set_numerical_check_tolerances", "set_rotating_buffer_size",
    "tune_gemm_in_file", "tuning_enable",
):  # fmt: skip
    globals()[_name] = nothing("cuda", f"tunable.{_name}")
