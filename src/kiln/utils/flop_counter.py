"""Counting the floating-point operations of a model: not built yet."""

from ..refusal import refuse

refuse(
    __name__, "FlopCounterMode register_flop_formula", "operations are not counted yet",
    "kiln.profiler measures their time; in Lightning, enable_model_summary=False leaves the count out",
)  # fmt: skip
