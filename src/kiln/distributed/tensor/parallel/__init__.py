"""Modules spread over processes by the parts of their weights: not built yet."""

from ....refusal import refuse
from ...group import _SINGLE
from . import style

refuse(__name__, "parallelize_module loss_parallel", "tensor parallelism is not built yet", _SINGLE)
globals().update({n: v for n, v in vars(style).items() if n[0].isupper()})
