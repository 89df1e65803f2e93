"""Loading beside PyTorch: the same numbers under its stream, the same names, the same classes of errors."""

import importlib
import random

import numpy as np
import pytest

import kiln
import kiln.data
from kiln.refusal import Refusal

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]


@pytest.fixture
def both(torch_stream):
    torch = pytest.importorskip("torch")
    return (torch, importlib.import_module("torch.utils.data")), (kiln, kiln.data)


class Draws:
    """What a dataset draws in a worker."""

    def __init__(self, lib):
        self.lib = lib

    def __len__(self):
        return 5

    def __getitem__(self, i):
        return i, random.random(), np.random.rand(), self.lib.rand(2).tolist()


def generator(lib):
    return lib.Generator().manual_seed(5)


ORDERS = {
    "shuffle": lambda lib, data: data.DataLoader(range(70), 8, shuffle=True),
    "generator": lambda lib, data: data.DataLoader(range(70), 8, shuffle=True, generator=generator(lib)),
    "workers": lambda lib, data: data.DataLoader(Draws(lib), 2, shuffle=True, num_workers=2, collate_fn=list),
    "replacement": lambda lib, data: data.RandomSampler(range(10), True, 70),
    "more than there are": lambda lib, data: data.RandomSampler(range(10), num_samples=25, generator=generator(lib)),
    "subset": lambda lib, data: data.SubsetRandomSampler([3, 5, 9, 11]),
    "weighted": lambda lib, data: data.WeightedRandomSampler([0.1, 2, 3, 0.5], 9),
    "weighted by a tensor": lambda lib, data: data.WeightedRandomSampler(lib.tensor([0.5, 2, 3, 0.5]), 9),
    "weighted once": lambda lib, data: data.WeightedRandomSampler([0.1, 2, 3, 0.5], 3, False, generator(lib)),
    "distributed": lambda lib, data: data.DistributedSampler(range(23), 4, 2, seed=3),
    "distributed, short": lambda lib, data: data.DistributedSampler(range(3), 8, 7),
    "distributed, dropping": lambda lib, data: data.DistributedSampler(range(23), 4, 3, drop_last=True),
    "split": lambda lib, data: [
        s.indices for s in data.random_split(range(11), [0.5, 0.25, 0.25], generator=generator(lib))
    ],
}  # fmt: skip


def plain(x):
    if hasattr(x, "tolist"):
        return x.tolist()
    return [plain(v) for v in x] if isinstance(x, list | tuple) else x


@pytest.mark.parametrize("name", ORDERS)
def test_the_same_order(name, both):
    made = []
    for lib, data in both:
        lib.manual_seed(11)
        loader = ORDERS[name](lib, data)
        made.append([plain(list(loader)) for _ in range(2)])
        made[-1].append(lib.rand(2).tolist())  # as many numbers were drawn
    assert made[0] == made[1]


def test_names():
    theirs = pytest.importorskip("torch.utils.data")
    pipes = {"DFIterDataPipe", "DataChunk", "IterDataPipe", "MapDataPipe", "argument_validation", "functional_datapipe",
             "guaranteed_datapipes_determinism", "non_deterministic", "runtime_validation", "runtime_validation_disabled"}  # fmt: skip
    assert [n for n in theirs.__all__ if not hasattr(kiln.data, n)] == []
    assert {n for n in theirs.__all__ if isinstance(getattr(kiln.data, n), Refusal)} == pipes


BAD = {
    "workers": lambda d: d.DataLoader([1], num_workers=-1),
    "timeout": lambda d: d.DataLoader([1], timeout=-1),
    "timeout alone": lambda d: iter(d.DataLoader([1], timeout=1)),
    "prefetch": lambda d: d.DataLoader([1], prefetch_factor=2),
    "negative prefetch": lambda d: d.DataLoader([1], num_workers=1, prefetch_factor=-2),
    "persistent": lambda d: d.DataLoader([1], persistent_workers=True),
    "context": lambda d: d.DataLoader([1], multiprocessing_context="fork"),
    "no context": lambda d: d.DataLoader([1], num_workers=1, multiprocessing_context="spoon"),
    "odd context": lambda d: d.DataLoader([1], num_workers=1, multiprocessing_context=3),
    "sampler and shuffle": lambda d: d.DataLoader([1], shuffle=True, sampler=[0]),
    "batch_sampler and size": lambda d: d.DataLoader([1], batch_size=2, batch_sampler=[[0]]),
    "drop_last": lambda d: d.DataLoader([1], batch_size=None, drop_last=True),
    "batch_size": lambda d: d.DataLoader([1], batch_size=0),
    "empty shuffled": lambda d: d.DataLoader([], shuffle=True),
    "rank": lambda d: d.DistributedSampler([1], 2, 2),
    "no group": lambda d: d.DistributedSampler([1]),
    "no datasets": lambda d: d.ConcatDataset([]),
    "no stack": lambda d: d.StackDataset(),
    "uneven stack": lambda d: d.StackDataset([1], [1, 2]),
    "split": lambda d: d.random_split([1, 2], [1, 2]),
    "share": lambda d: d.random_split([1, 2], [-0.5, 1.5]),
    "collate": lambda d: d.default_collate([object()]),
    "collate lengths": lambda d: d.default_collate([[1], [1, 2]]),
    "an iterator is not pickled": lambda d: iter(d.DataLoader([1])).__getstate__(),
    **{f"set {n}": lambda d, n=n: setattr(d.DataLoader([1]), n, 1) for n in (
        "batch_size", "batch_sampler", "sampler", "drop_last", "dataset", "persistent_workers",
    )},
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_errors_of_the_same_class(name):
    theirs = pytest.importorskip("torch.utils.data")
    with pytest.raises(Exception) as expected:  # noqa: PT011
        BAD[name](theirs)
    with pytest.raises(type(expected.value)) as caught:
        BAD[name](kiln.data)
    assert str(caught.value).startswith("[")


class Box(dict):
    pass


@pytest.mark.parametrize(
    "batch",
    [
        [1, 2], [1.5, 2], [True, False], ["a", "b"], [b"a"], [np.float32(1), np.float32(2)], [np.arange(3)] * 2,
        [{"a": 1, "b": [2, "x"]}] * 3, [(1, (2.0, np.int16(3)))] * 2, [[1, 2], (3, 4)], [Box(a=1), Box(a=2)], [range(3)] * 2,
        [np.zeros((2, 0))] * 2, [None, None], [{1, 2}], [np.array("s")],
    ],
    ids=str,
)  # fmt: skip
def test_collation(batch):
    theirs = pytest.importorskip("torch.utils.data")
    try:
        expected = theirs.default_collate(batch)
    except Exception as e:
        with pytest.raises(type(e)):
            kiln.data.default_collate(batch)
    else:
        made = kiln.data.default_collate(batch)
        assert _told(made) == _told(expected)
    assert _told(kiln.data.default_convert(batch)) == _told(theirs.default_convert(batch))


def _told(x):
    if hasattr(x, "tolist") and hasattr(x, "dtype"):
        return str(x.dtype).split(".")[-1], tuple(x.shape), x.tolist()
    if isinstance(x, dict):
        return type(x), {k: _told(v) for k, v in x.items()}
    return (type(x), [_told(v) for v in x]) if isinstance(x, list | tuple) else x
