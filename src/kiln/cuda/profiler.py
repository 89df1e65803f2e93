"""NVIDIA's profiler: not in this build."""

from ..accelerator import nothing

init, profile, start, stop = (
    nothing("cuda", f"profiler.{n}") for n in ("init", "profile", "start", "stop")
)
