"""Pipelines: what comes, in which order, how much is held, and that every stage goes on exactly where it was."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest

import kiln
from kiln.data import DataLoader, IterableDataset, Pipeline, TensorDataset


def plain(x):
    """Batches as lists."""
    if isinstance(x, kiln.Tensor):
        return x.tolist()
    return [plain(v) for v in x] if isinstance(x, list | tuple) else x


def items(pipeline):
    return [plain(x) for x in pipeline]


class Counting:
    """A source that notes what was asked of it."""

    def __init__(self, n):
        self.n, self.asked = n, []

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        self.asked.append(i)
        return i


class Words(IterableDataset):
    """A stream without a state."""

    def __iter__(self):
        yield from ([i] * (i * 7 % 11 + 1) for i in range(40))


def augmented(x, random):
    return x + random.integers(0, 1000)


PIPELINES = {
    "numbered": lambda: Pipeline(range(23)),
    "streamed": lambda: Pipeline(Words()),
    "a function": lambda: Pipeline(lambda: iter(range(17))),
    "map": lambda: Pipeline(range(23)).map(lambda x: x * x),
    "random map": lambda: Pipeline(range(23)).map(augmented, seed=None),
    "filter": lambda: Pipeline(range(50)).filter(lambda x: x % 3),
    "flat map": lambda: Pipeline(Words()).flat_map(lambda w: w),
    "shuffle": lambda: Pipeline(range(60)).shuffle(10),
    "shuffle twice": lambda: Pipeline(range(60)).shuffle(10, seed=1).shuffle(7, seed=1),
    "batch": lambda: Pipeline(range(23)).batch(4),
    "by length": lambda: Pipeline(Words()).batch_by_length(4, [3, 6, 9]),
    "take and skip": lambda: Pipeline(range(60)).shuffle(9).skip(5).take(30),
    "repeat": lambda: Pipeline(range(7)).shuffle(4).repeat(3),
    "prefetch": lambda: Pipeline(range(60)).shuffle(10).prefetch(3),
    "cache": lambda: Pipeline(range(20)).shuffle(10).cache().map(lambda x: -x),
    "cache in a repeat": lambda: Pipeline(range(6)).shuffle(6).cache().shuffle(3).repeat(3),
    "all": lambda: (
        Pipeline(Words()).shuffle(10).map(lambda w: (w, len(w))).cache().shuffle(5)
        .batch_by_length(3, [4, 8]).prefetch(2)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PIPELINES)
def test_it_goes_on_anywhere(name, tmp_path):
    """Two passes, told whole; a new pipeline in place of the old one after any number of items gives the rest, and the next pass."""
    kiln.manual_seed(3)
    p = PIPELINES[name]()
    first, second, third = items(p), items(p), items(p)
    for stop in range(0, len(first) + 1, 1 + len(first) // 12):
        kiln.manual_seed(3)
        p = PIPELINES[name]()
        it = iter(p)
        begun = [plain(x) for x in itertools.islice(it, stop)]
        kiln.save({"place": p.state_dict(), "rng": kiln.get_rng_state()}, tmp_path / "place.kiln")
        it.close()
        kiln.manual_seed(99)
        again, saved = PIPELINES[name](), kiln.load(tmp_path / "place.kiln")
        again.load_state_dict(saved["place"])
        kiln.set_rng_state(saved["rng"])
        assert begun + items(again) == first, stop
        assert items(again) == second, stop
    # in the second pass
    kiln.manual_seed(3)
    p = PIPELINES[name]()
    items(p)
    begun = [plain(x) for x in itertools.islice(iter(p), 2)]
    place, rng = p.state_dict(), kiln.get_rng_state()
    again = PIPELINES[name]()
    again.load_state_dict(place)
    kiln.set_rng_state(rng)
    assert begun + items(again) == second
    assert items(again) == third


def test_what_comes():
    p = Pipeline([3, 1, 2])
    assert items(p.map(lambda x: x * 2)) == [6, 2, 4]
    assert items(p.filter(lambda x: x > 1)) == [3, 2]
    assert items(p.flat_map(range)) == [0, 1, 2, 0, 0, 1]
    assert items(p.repeat(2)) == [3, 1, 2, 3, 1, 2]
    assert list(itertools.islice(p.repeat(), 7)) == [3, 1, 2, 3, 1, 2, 3]
    assert items(Pipeline([]).repeat()) == []
    assert items(p.skip(1).take(1)) == [1]
    assert items(p.batch(2)) == [[3, 1], [2]]
    assert items(p.batch(2, drop_last=True)) == [[3, 1]]
    data = TensorDataset(kiln.arange(6).view(3, 2), kiln.arange(3))
    assert items(Pipeline(data).batch(2))[0] == [[[0, 1], [2, 3]], [0, 1]]


def test_lengths():
    p = Pipeline(range(23))
    assert len(p.shuffle(3).batch(4).prefetch()) == 6
    assert len(p.batch(4, drop_last=True)) == 5
    assert len(p.skip(3).take(100).repeat(2)) == 40
    assert len(p.shard(4, 3)) == len(items(p.shard(4, 3))) == 5
    for unknown in (p.filter(bool), p.repeat(), Pipeline(Words())):
        with pytest.raises(TypeError, match="how many"):
            len(unknown)
    assert len(list(p.filter(bool))) == 22


def test_shuffling_is_random_and_bounded():
    source = Counting(1000)
    it = iter(Pipeline(source).shuffle(50))
    next(it)
    assert len(source.asked) == 50
    kiln.manual_seed(0)
    p = Pipeline(range(1000)).shuffle(50)
    a, b = items(p), items(p)
    assert sorted(a) == sorted(b) == list(range(1000))
    assert a != b
    # nothing comes before it can be in the buffer
    assert all(x < place + 50 for place, x in enumerate(a))
    # of a buffer as large as the data each place is as likely
    p = Pipeline(range(8)).shuffle(8, seed=5)
    counts = np.zeros((8, 8))
    for _ in range(2000):
        for place, x in enumerate(p):
            counts[place, x] += 1
    assert np.abs(counts / 2000 - 1 / 8).max() < 0.035  # 4.7 deviations
    kiln.manual_seed(0)
    assert items(Pipeline(range(1000)).shuffle(50)) == a


def test_seeds():
    p = Pipeline(range(30)).shuffle(30, seed=1)
    before = kiln.get_rng_state()
    first, second = items(p), items(p)
    assert kiln.equal(kiln.get_rng_state(), before)  # nothing was drawn from the program's stream
    assert first != second
    p.set_epoch(0)
    assert items(p) == first
    assert items(Pipeline(range(30)).shuffle(30, seed=2)) != first
    m = Pipeline([0] * 50).map(augmented, seed=3)
    a = items(m)
    assert len(set(a)) > 40
    m.set_epoch(0)
    assert items(m) == a
    assert items(m) != a


def test_caching(tmp_path):
    for path in (None, tmp_path / "deep" / "kept"):
        source = Counting(9)
        p = Pipeline(source).map(lambda x: {"x": kiln.tensor([x, 2.5]), "name": str(x)}).cache(path)
        it = iter(p)
        next(it)
        assert len(items(p)) == 9  # the pass that was left in the middle has kept nothing
        assert len(source.asked) == 10
        again = list(p)
        assert len(source.asked) == 10
        assert again[4]["name"] == "4"
        assert again[4]["x"].tolist() == [4, 2.5]
    assert [f.name for f in (tmp_path / "deep").iterdir()] == ["kept"]
    source = Counting(9)
    assert len(list(Pipeline(source).cache(tmp_path / "deep" / "kept"))) == 9
    assert source.asked == []


def test_batches_by_length():
    r = np.random.default_rng(0)
    words = [r.integers(1, 100, n) for n in r.integers(1, 20, 200)]
    samples = [(w, i, np.full(3, i)) for i, w in enumerate(words)]
    p = Pipeline(samples).shuffle(50, seed=0).batch_by_length(8, [5, 10, 15], pad_value=-1)
    seen = []
    for x, i, vector in p:
        lengths = [len(words[k]) for k in i.tolist()]
        assert x.shape == (len(i), max(lengths))
        assert vector.shape == (len(i), 3)  # as long in each: not padded
        assert len({int(np.searchsorted([5, 10, 15], n)) for n in lengths}) == 1
        for row, k in zip(x.numpy(), i.tolist(), strict=True):
            np.testing.assert_array_equal(row[: len(words[k])], words[k])
            assert (row[len(words[k]) :] == -1).all()
        seen += i.tolist()
    assert sorted(seen) == list(range(200))
    fixed = Pipeline(samples).batch_by_length([8, 4, 2, 1], [5, 10, 20], pad_to_boundary=True, drop_last=True)  # fmt: skip
    assert {tuple(x.shape) for x, *_ in fixed} == {(8, 5), (4, 10), (2, 20)}
    with pytest.raises(ValueError, match="longer than the last"):
        items(Pipeline(samples).batch_by_length(2, [5, 10], pad_to_boundary=True))
    given = Pipeline(["a", "bb", "c"]).batch_by_length(2, [1], collate_fn="".join)
    assert items(given) == ["ac", "bb"]


def test_prefetching_is_ahead_by_so_much():
    source, more = Counting(100), threading.Semaphore(0)

    def slow(x):
        more.release()
        return x

    it = iter(Pipeline(source).map(slow).prefetch(3))
    assert next(it) == 0
    for _ in range(4):  # one was given out, and three wait
        assert more.acquire(timeout=60)
    it.close()
    assert len(source.asked) == 4
    assert not [t for t in threading.enumerate() if t.name == "kiln-prefetch"]


def test_prefetching_ends_when_nobody_wants_more():
    it = iter(Pipeline(range(100)).prefetch(2))
    next(it)
    (thread,) = (t for t in threading.enumerate() if t.name == "kiln-prefetch")
    del it
    thread.join(60)
    assert not thread.is_alive()


def test_an_exception_comes_in_its_place():
    def f(x):
        if x == 3:
            raise ZeroDivisionError("three")
        return x

    it = iter(Pipeline(range(9)).map(f).prefetch(8))
    assert [next(it) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ZeroDivisionError, match="three") as e:
        next(it)
    assert "f" in [frame.name for frame in e.traceback]


@pytest.mark.parametrize("workers", [0, 2])
def test_in_a_loader(workers):
    def loader():
        p = Pipeline(range(40)).shuffle(8).map(lambda x: x * 10).batch(3)
        return DataLoader(p, batch_size=None, num_workers=workers)

    kiln.manual_seed(1)
    first = loader()
    whole = items(first)
    assert sorted(itertools.chain(*whole)) == [x * 10 for x in range(40)]  # each sample once
    kiln.manual_seed(1)
    first = loader()
    begun = [plain(x) for x in itertools.islice(iter(first), 5)]
    again = loader()
    again.load_state_dict(first.state_dict())
    assert begun + items(again) == whole


def test_parts_of_processes():
    parts = [Pipeline(range(10)).map(lambda x: x).shard(3, i) for i in range(3)]
    assert [items(p) for p in parts] == [[0, 3, 6, 9], [1, 4, 7], [2, 5, 8]]
    streams = [Pipeline(lambda: iter(range(10))).shard(3, i) for i in range(3)]
    assert [items(p) for p in streams] == [items(p) for p in parts]


def test_what_is_no_source():
    with pytest.raises(TypeError, match="once only"):
        Pipeline(iter([1, 2]))
    with pytest.raises(TypeError, match="not a source"):
        Pipeline(3)
    p = Pipeline([1])
    for call in (lambda: p.shuffle(0), lambda: p.batch(0), lambda: p.prefetch(0), lambda: p.shard(2, 2),
                 lambda: p.batch_by_length(2, [3, 3]), lambda: p.batch_by_length([2], [3])):  # fmt: skip
        with pytest.raises(ValueError, match=r"^\[") as e:
            call()
        assert len(str(e.value).splitlines()) >= 2
    with pytest.raises(ValueError, match="another pipeline"):
        next_place = Pipeline([1, 2]).batch(2)
        next(iter(next_place))
        p.load_state_dict(iter(next_place).state_dict())
    with pytest.raises(TypeError, match="not a state"):
        p.load_state_dict({})
