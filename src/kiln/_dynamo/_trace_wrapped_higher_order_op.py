"""What programs that build masks by vmap import."""

from __future__ import annotations

from contextlib import nullcontext


class TransformGetItemToIndex(nullcontext):
    """Where indices may be tensors of a level of vmap: Kiln's may be anywhere."""
