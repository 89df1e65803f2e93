"""Going on in the middle of an epoch: the same batches as if nothing had happened."""

import random

import numpy as np
import pytest

import kiln
from kiln.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    TensorDataset,
    WeightedRandomSampler,
    get_worker_info,
)

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


class Augmented(Dataset):
    """Samples that depend on all three streams of random numbers."""

    def __len__(self):
        return 14

    def __getitem__(self, i):
        return i, random.random(), np.random.rand(), kiln.rand(2)


class Stream(IterableDataset):
    """Numbers that can't be passed over: each may be read once; knows where it is."""

    def __init__(self, n):
        self.n, self.at = n, None

    def __iter__(self):
        info = get_worker_info()
        if self.at is None:
            self.at = (1000 * info.id if info else 0), 0
        first, k = self.at
        while k < self.n - (info.id if info else 0):
            k += 1
            self.at = first, k
            yield first + k, kiln.rand(())
        self.at = None

    def state_dict(self):
        return {"at": list(self.at) if self.at else None}

    def load_state_dict(self, state):
        self.at = state["at"]


class Plain(IterableDataset):
    """The same, knowing nothing of resuming."""

    def __init__(self, n):
        self.n = n

    def __iter__(self):
        info = get_worker_info()
        for k in range(self.n - (info.id if info else 0)):
            yield (1000 * info.id if info else 0) + k, random.random() if info else 0.0


class Cursor:
    def __init__(self, n):
        self.n, self.k = n, 0

    def __iter__(self):
        return self

    def __next__(self):
        if self.k == self.n:
            raise StopIteration
        self.k += 1
        return self.k

    def state_dict(self):
        return {"k": self.k}

    def load_state_dict(self, state):
        self.k = state["k"]


class Cursors(IterableDataset):
    """An iterator that knows where it is."""

    def __iter__(self):
        return Cursor(9)


class Shuffled(Sampler):
    """A program's own order, drawn from Python's stream as it goes."""

    def __iter__(self):
        left = list(range(14))
        while left:
            yield left.pop(random.randrange(len(left)))

    def __len__(self):
        return 14


class Remembering(Sampler):
    """A program's own sampler, which can't be run again."""

    def __init__(self):
        self.left = list(range(14))

    def __iter__(self):
        while self.left:
            yield self.left.pop(0)
        self.left = list(range(14))

    def state_dict(self):
        return {"left": list(self.left)}

    def load_state_dict(self, state):
        self.left = list(state["left"])


def seeded(n):
    return kiln.Generator().manual_seed(n)


LOADERS = {
    "shuffled": lambda n: DataLoader(Augmented(), 3, shuffle=True, num_workers=n),
    "generator": lambda n: DataLoader(Augmented(), 3, shuffle=True, num_workers=n, generator=seeded(1)),
    "drop_last": lambda n: DataLoader(Augmented(), 4, True, drop_last=True, num_workers=n),
    "replacement": lambda n: DataLoader(
        Augmented(), 5, sampler=RandomSampler(range(14), True, 90, generator=seeded(2)), num_workers=n
    ),
    "weighted": lambda n: DataLoader(Augmented(), 3, sampler=WeightedRandomSampler(range(14), 20), num_workers=n),
    "samples": lambda n: DataLoader(Augmented(), None, shuffle=True, num_workers=n),
    "batches": lambda n: DataLoader(
        Augmented(), batch_sampler=BatchSampler(RandomSampler(range(14)), 4, False), num_workers=n
    ),
    "own sampler": lambda n: DataLoader(TensorDataset(kiln.arange(14)), 3, sampler=Shuffled(), num_workers=n),
    "sampler with a state": lambda n: DataLoader(Augmented(), 3, sampler=Remembering(), num_workers=n),
    "rows": lambda n: DataLoader(TensorDataset(kiln.arange(14)), 3, True, num_workers=n),
    "stream": lambda n: DataLoader(Stream(8), 3, num_workers=n),
    "plain stream": lambda n: DataLoader(Plain(8), 3, num_workers=n),
    "iterator with a state": lambda n: DataLoader(Cursors(), 2, num_workers=n),
}  # fmt: skip


def plain(x):
    if isinstance(x, kiln.Tensor):
        return x.tolist()
    return [plain(v) for v in x] if isinstance(x, list | tuple) else x


def begin():
    kiln.manual_seed(7)
    random.seed(7)
    np.random.seed(7)


def streams():
    return kiln.get_rng_state(), random.getstate(), np.random.get_state()


def go_on(saved):
    kiln.set_rng_state(saved[0])
    random.setstate(saved[1])
    np.random.set_state(saved[2])


WITH_WORKERS = ("shuffled", "sampler with a state", "stream")
MORE_WITH_WORKERS = ("generator", "own sampler", "plain stream")


@pytest.mark.parametrize(
    ("name", "workers"),
    [
        *((n, 0) for n in LOADERS), *((n, 2) for n in WITH_WORKERS),
        *(pytest.param(n, 2, marks=pytest.mark.slow) for n in MORE_WITH_WORKERS),
    ],
)  # fmt: skip
def test_going_on(name, workers, tmp_path):
    make = LOADERS[name]
    begin()
    loader = make(workers)
    epochs = [plain(list(loader)) for _ in range(2)]
    for stop in (2,) if workers else (1, len(epochs[0]) - 2):
        begin()
        loader = make(workers)
        for k, batch in enumerate(loader, 1):
            assert plain(batch) == epochs[0][k - 1]
            if k == stop:
                break
        kiln.save(loader.state_dict(), tmp_path / "loader")
        numbers = streams()
        random.random(), kiln.rand(9)  # another process begins anywhere
        resumed = make(workers)
        resumed.load_state_dict(kiln.load(tmp_path / "loader"))
        go_on(numbers)
        it = iter(resumed)
        rest = [plain(next(it))]
        again, numbers_again = resumed.state_dict(), streams()  # right after it went on
        rest += plain(list(it))
        assert rest == epochs[0][stop:]
        go_on(numbers_again)
        twice = make(workers)
        twice.load_state_dict(again)
        assert plain(list(twice)) == epochs[0][stop + 1 :]
        assert plain(list(twice)) == epochs[1]


def test_streams_of_the_program_are_left_alone():
    begin()
    loader = LOADERS["shuffled"](2)
    next(iter(loader))
    state = loader.state_dict()
    before = kiln.get_rng_state()
    resumed = LOADERS["shuffled"](2)
    resumed.load_state_dict(state)
    next(iter(resumed))
    assert kiln.equal(kiln.get_rng_state(), before)


def test_before_and_after_an_epoch():
    loader = DataLoader(TensorDataset(kiln.arange(6)), 2, num_workers=1)
    for state in (loader.state_dict(), (list(loader), loader.state_dict())[1]):
        assert state["yielded"] == 0
        loader.load_state_dict(state)
        assert len(list(loader)) == 3


def test_persistent_workers_go_on():
    begin()

    def make():
        return DataLoader(
            Augmented(), 3, True, num_workers=2, persistent_workers=True, generator=seeded(4)
        )

    loader = make()
    epochs = [plain(list(loader)) for _ in range(3)]
    begin()
    loader = make()
    list(loader)
    at_the_end = loader.state_dict()
    it = iter(loader)
    assert [plain(next(it)), plain(next(it))] == epochs[1][:2]
    state = loader.state_dict()
    resumed = make()
    resumed.load_state_dict(state)
    assert plain(list(resumed)) == epochs[1][2:]
    assert plain(list(resumed)) == epochs[2]
    loader.load_state_dict(state)  # in the workers that are there
    assert plain(list(loader)) == epochs[1][2:]
    resumed = make()
    resumed.load_state_dict(at_the_end)
    assert plain(next(iter(resumed))) == epochs[1][0]


def test_batches_in_any_order_come_once_each():
    loader = DataLoader(
        TensorDataset(kiln.arange(20)), None, num_workers=2, in_order=False, shuffle=True
    )
    it = iter(loader)
    seen = [next(it)[0].item() for _ in range(7)]
    resumed = DataLoader(
        TensorDataset(kiln.arange(20)), None, num_workers=2, in_order=False, shuffle=True
    )
    resumed.load_state_dict(loader.state_dict())
    assert sorted(seen + [x.item() for (x,) in resumed]) == list(range(20))


def test_states_that_do_not_fit():
    loader = DataLoader(TensorDataset(kiln.arange(6)), 2)
    next(iter(loader))
    state = loader.state_dict()
    for options in ({"batch_size": 3}, {"batch_size": 2, "num_workers": 1}):
        with pytest.raises(ValueError, match=r"another (batch_size|num_workers)"):
            DataLoader(TensorDataset(kiln.arange(6)), **options).load_state_dict(state)
    with pytest.raises(ValueError, match="another version"):
        loader.load_state_dict({**state, "version": 99})
    with pytest.raises(TypeError, match="not a state"):
        loader.load_state_dict([1])
