"""Datasets, samplers and the loader that makes batches of them, in worker processes if wanted.

https://docs.pytorch.org/docs/stable/data.html
"""

from ..refusal import refuse
from .dataloader import (
    DataLoader,
    _DatasetKind,
    default_collate,
    default_convert,
    get_worker_info,
)
from .dataset import (
    ChainDataset,
    ConcatDataset,
    Dataset,
    IterableDataset,
    StackDataset,
    Subset,
    TensorDataset,
    random_split,
)
from .distributed import DistributedSampler
from .pipeline import Pipeline
from .sampler import (
    BatchSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

refuse(
    __name__, "IterDataPipe MapDataPipe DFIterDataPipe DataChunk functional_datapipe guaranteed_datapipes_determinism "
    "non_deterministic argument_validation runtime_validation runtime_validation_disabled",
    "data pipes", "use Dataset or IterableDataset",
)  # fmt: skip

__all__ = [
    "BatchSampler", "ChainDataset", "ConcatDataset", "DataLoader", "Dataset", "DistributedSampler", "IterableDataset", "Pipeline",
    "RandomSampler", "Sampler", "SequentialSampler", "StackDataset", "Subset", "SubsetRandomSampler",
    "TensorDataset", "WeightedRandomSampler", "_DatasetKind", "default_collate", "default_convert", "get_worker_info",
    "random_split",
]  # fmt: skip
