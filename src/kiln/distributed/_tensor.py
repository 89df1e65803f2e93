"""The older place of `distributed.tensor`."""

from . import tensor

globals().update({n: getattr(tensor, n) for n in tensor.__all__})
