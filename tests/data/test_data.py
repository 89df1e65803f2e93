"""Datasets, samplers, collation and the loader."""

import pickle
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import pytest
from tests.data.plain import plain

import kiln
from kiln.data import (
    BatchSampler,
    ChainDataset,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    StackDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
    random_split,
)


class Point(NamedTuple):
    x: Any
    y: Any


class Squares(Dataset):
    def __init__(self, n):
        self.n = n

    def __getitem__(self, i):
        if not 0 <= i < self.n:
            raise IndexError(i)
        return np.float32(i), i * i

    def __len__(self):
        return self.n


class Count(IterableDataset):
    def __init__(self, n):
        self.n = n

    def __iter__(self):
        return iter(range(self.n))


def table(n=10):
    x = kiln.arange(n * 2).reshape(n, 2).float()
    return TensorDataset(x, kiln.arange(n))


def test_tensor_dataset():
    d = table()
    assert len(d) == 10
    assert plain(d[3]) == [[6, 7], 3]
    assert plain(d[-1]) == [[18, 19], 9]
    with pytest.raises(AssertionError, match="Size mismatch"):
        TensorDataset(kiln.zeros(3), kiln.zeros(4))
    with pytest.raises(IndexError):
        d[10]


def test_combining_datasets():
    both = Squares(3) + Squares(2)
    assert isinstance(both, ConcatDataset)
    assert [both[i][1] for i in range(5)] == [0, 1, 4, 0, 1]
    assert both[-1][1] == 1
    with pytest.raises(IndexError):
        both[5]
    with pytest.raises(ValueError, match="exceed"):
        both[-6]
    with pytest.raises(AssertionError):
        ConcatDataset([Count(2)])
    assert list(ChainDataset([Count(2), Count(3)])) == [0, 1, 0, 1, 2]
    assert StackDataset(a=Squares(3), b=table(3))["x" and 1]["a"][1] == 1
    assert [Subset(Squares(9), [5, 2])[i][1] for i in range(2)] == [25, 4]


def test_random_split():
    parts = random_split(table(), [0.5, 0.25, 0.25], generator=kiln.Generator().manual_seed(1))
    assert [len(p) for p in parts] == [6, 2, 2]
    assert sorted(p[i][1].item() for p in parts for i in range(len(p))) == list(range(10))
    with pytest.raises(ValueError, match="Sum of input lengths"):
        random_split(table(), [3, 3])


def test_samplers():
    d = table()
    assert list(SequentialSampler(d)) == list(range(10))
    one = RandomSampler(d, generator=kiln.Generator().manual_seed(3))
    assert sorted(one) == list(range(10))
    assert list(RandomSampler(d, generator=kiln.Generator().manual_seed(3))) == list(
        RandomSampler(d, generator=kiln.Generator().manual_seed(3))
    )
    assert len(list(RandomSampler(d, num_samples=23))) == 23
    drawn = list(RandomSampler(d, replacement=True, num_samples=100))
    assert len(drawn) == 100
    assert set(drawn) <= set(range(10))
    assert sorted(SubsetRandomSampler([3, 5, 7])) == [3, 5, 7]
    counts = Counter(WeightedRandomSampler([0.0, 1.0, 3.0], 2000))
    assert counts[0] == 0
    assert 2 < counts[2] / counts[1] < 4.5
    assert list(BatchSampler(range(5), 2, False)) == [[0, 1], [2, 3], [4]]
    assert list(BatchSampler(range(5), 2, True)) == [[0, 1], [2, 3]]
    assert len(BatchSampler(range(5), 2, False)) == 3
    for make in (
        lambda: BatchSampler(range(5), 0, False), lambda: BatchSampler(range(5), 2, 1),
        lambda: RandomSampler(d, num_samples=0), lambda: RandomSampler([]),
        lambda: WeightedRandomSampler([[1.0]], 2),
    ):  # fmt: skip
        with pytest.raises(ValueError):  # noqa: PT011
            make()


def test_collation():
    assert default_collate([1, 2]).dtype is kiln.int64
    assert default_collate([1.0, 2.0]).dtype is kiln.float64
    assert default_collate([True, False]).dtype is kiln.bool
    assert default_collate([np.float32(1), np.float32(2)]).dtype is kiln.float32
    assert default_collate([np.zeros((2, 3)), np.ones((2, 3))]).shape == (2, 2, 3)
    assert default_collate(["a", "b"]) == ["a", "b"]
    assert plain(default_collate([{"a": 1, "b": [2, 3]}, {"a": 4, "b": [5, 6]}])) == {
        "a": [1, 4], "b": [[2, 5], [3, 6]],
    }  # fmt: skip
    p = default_collate([Point(1, "u"), Point(2, "v")])
    assert isinstance(p, Point)
    assert (plain(p.x), p.y) == ([1, 2], ("u", "v"))
    assert isinstance(default_collate([(1, 2), (3, 4)]), list)
    with pytest.raises(TypeError, match="must contain tensors"):
        default_collate([object()])
    with pytest.raises(TypeError, match="found <U1"):
        default_collate([np.array("a")])
    with pytest.raises(RuntimeError, match="equal size"):
        default_collate([[1], [1, 2]])
    with pytest.raises(RuntimeError):
        default_collate([kiln.zeros(2), kiln.zeros(3)])


def test_batches():
    batches = list(DataLoader(table(), batch_size=4))
    assert plain(batches[-1]) == [[[16, 17], [18, 19]], [8, 9]]
    assert isinstance(batches[0], list)
    assert len(DataLoader(table(), batch_size=4)) == 3
    assert len(list(DataLoader(table(), batch_size=4, drop_last=True))) == 2
    shuffled = list(DataLoader(table(), batch_size=3, shuffle=True))
    assert sorted(i for b in shuffled for i in b[1].tolist()) == list(range(10))
    assert all((x[:, 0] == 2 * y).all() for x, y in shuffled)


def test_the_quick_path_gives_what_collation_gives():
    d = table()
    order = [3, -1, 0, 7, 7]
    slow = DataLoader(d, batch_sampler=[order], collate_fn=lambda b: default_collate(b))
    assert plain(list(slow)) == plain(list(DataLoader(d, batch_sampler=[order])))
    part = Subset(d, [9, 8, 7, 0])
    slow = DataLoader(part, batch_size=3, collate_fn=lambda b: default_collate(b))
    assert plain(list(slow)) == plain(list(DataLoader(part, batch_size=3)))
    (first, _) = next(iter(DataLoader(d, batch_size=2)))
    first.zero_()
    assert plain(d[0][0]) == [0, 1]  # a batch has memory of its own
    with pytest.raises(IndexError):
        list(DataLoader(d, batch_sampler=[[3, 10]]))
    learned = TensorDataset(kiln.ones(4, requires_grad=True))
    (batch,) = next(iter(DataLoader(learned, batch_size=2)))
    assert batch.requires_grad


def test_other_orders():
    d = Squares(6)
    assert plain(list(DataLoader(d, batch_size=None))) == [[i, i * i] for i in range(6)]
    assert [y for _, y in DataLoader(d, batch_size=None)] == [i * i for i in range(6)]
    assert plain(list(DataLoader(d, batch_size=2, sampler=[5, 1, 2]))) == [
        [[5, 1], [25, 1]],
        [[2], [4]],
    ]
    assert plain(list(DataLoader(d, batch_sampler=[[0], [3, 2]]))) == [[[0], [0]], [[3, 2], [9, 4]]]
    assert list(DataLoader(d, batch_size=4, collate_fn=len)) == [4, 2]
    assert plain(list(DataLoader([10, 20, 30], batch_size=2))) == [[10, 20], [30]]


def test_iterable_datasets():
    assert plain(list(DataLoader(Count(5), batch_size=2))) == [[0, 1], [2, 3], [4]]
    assert plain(list(DataLoader(Count(5), batch_size=2, drop_last=True))) == [[0, 1], [2, 3]]
    assert plain(list(DataLoader(Count(4), batch_size=2))) == [[0, 1], [2, 3]]
    assert list(DataLoader(Count(3), batch_size=None)) == [0, 1, 2]
    with pytest.raises(ValueError, match="shuffle"):
        DataLoader(Count(3), shuffle=True)
    with pytest.raises(TypeError):
        len(DataLoader(Count(3)))


def test_datasets_that_fetch_whole_batches():
    class Fast(Squares):
        def __getitems__(self, numbers):
            return [self[i] for i in numbers] * 2

    assert plain(next(iter(DataLoader(Fast(4), batch_size=2)))) == [[0, 1, 0, 1], [0, 1, 0, 1]]


@pytest.mark.parametrize(
    "options",
    [
        {"sampler": [0], "shuffle": True}, {"batch_sampler": [[0]], "batch_size": 2},
        {"batch_sampler": [[0]], "shuffle": True}, {"batch_size": None, "drop_last": True},
        {"batch_size": 0}, {"num_workers": -1}, {"timeout": -1}, {"prefetch_factor": 2},
        {"persistent_workers": True},
    ],
)  # fmt: skip
def test_options_that_contradict(options):
    with pytest.raises(ValueError):  # noqa: PT011
        DataLoader(Squares(4), **options)


def test_batches_of_unpickled_arrays_have_kilns_own_dtype_object():
    arrays = [pickle.loads(pickle.dumps(np.arange(3, dtype=np.float32))) for _ in range(2)]
    assert default_collate(arrays)._a.dtype is kiln.float32.np  # fast paths ask by identity
