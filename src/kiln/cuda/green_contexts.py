"""Parts of a CUDA device: there is none."""

from . import GreenContext as GreenContext

SUPPORTED = False
