"""Marks for NVIDIA's profilers: not in this build."""

from ..accelerator import nothing
from ..errors import KilnError

range_push, range_pop, range_start, range_end, range, mark = (
    nothing("cuda", f"nvtx.{n}", KilnError)
    for n in ("range_push", "range_pop", "range_start", "range_end", "range", "mark")
)
