"""PyTorch's name for `kiln.data`: importing `kiln.utils.data` gives that very package, and so do its modules' names."""

import sys

from .. import data
from ..data import *  # noqa: F403  (what a type checker sees here)
from ..data import _utils, dataloader, dataset, distributed, sampler
from ..data._utils import collate, fetch, info

sys.modules[__name__] = data
for _module in (dataloader, dataset, distributed, sampler, _utils, collate, fetch, info):
    sys.modules[_module.__name__.replace(data.__name__, __name__, 1)] = _module
