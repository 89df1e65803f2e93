"""Batches that worker processes make: the same as without them, in shared memory, whatever the dataset gives."""

import gc
import multiprocessing
import os
import random
import subprocess
import sys
import time
from typing import Any, NamedTuple

import numpy as np
import pytest
from tests.data.plain import plain

import kiln
from kiln.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
    get_worker_info,
)

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


class Sample(NamedTuple):
    image: Any
    facts: Any


class Pictures(Dataset):
    """Samples with all that a sample may hold; images of 24 KiB, so that batches travel in shared memory."""

    def __len__(self):
        return 10

    def __getitem__(self, i):
        return Sample(
            kiln.full((3, 32, 64), float(i)),
            {"name": f"no. {i}", "n": i, "w": np.float32(i), "b": b"x"},
        )


class Facts(Dataset):
    """What each worker knows of itself."""

    def __len__(self):
        return 4

    def __getitem__(self, i):
        info = get_worker_info()
        numpy, python = np.random.randint(1 << 30), random.random()
        return info.id, info.num_workers, info.seed, kiln.initial_seed(), numpy, python, os.getpid()


class Parts(IterableDataset):
    """Worker i of n gives lengths[i] numbers, from 100 * i on."""

    def __init__(self, *lengths):
        self.lengths = lengths

    def __iter__(self):
        info = get_worker_info()
        for part in [info.id] if info else range(len(self.lengths)):
            yield from range(100 * part, 100 * part + self.lengths[part])

    def __len__(self):
        return sum(self.lengths)


class Slow(Dataset):
    def __init__(self, seconds):
        self.seconds = seconds

    def __len__(self):
        return len(self.seconds)

    def __getitem__(self, i):
        time.sleep(self.seconds[i])
        return i


class Computing(Dataset):
    """Products that are made by Kiln's thread pool where they are large enough."""

    def __init__(self):
        self.fn = kiln.compile(lambda x: (x @ x).relu().sum(1))

    def __len__(self):
        return 4

    def __getitem__(self, i):
        return self.fn(kiln.full((96, 96), float(i))) + kiln.ones(96, 96).matmul(kiln.ones(96))


def batch_of_arrays(samples):
    a = np.stack([s.image.numpy() for s in samples])
    return {
        "array": a,
        "turned": kiln.from_numpy(a).permute(0, 2, 3, 1),
        "half": kiln.from_numpy(a).bfloat16(),
    }


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_the_same_batches_as_without_workers(method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    alone = list(DataLoader(Pictures(), batch_size=4))
    made = list(
        DataLoader(
            Pictures(),
            batch_size=4,
            num_workers=1 + (method == "fork"),
            multiprocessing_context=method,
        )
    )
    assert plain(made) == plain(alone)
    assert [type(b) for b in made] == [Sample] * 3
    assert made[0].image.is_shared()
    assert not alone[0].image.is_shared()


def test_what_collate_functions_give():
    made = list(DataLoader(Pictures(), batch_size=4, num_workers=2, collate_fn=batch_of_arrays))
    for i, batch in enumerate(made):
        a = batch["array"]
        assert isinstance(a, np.ndarray)
        assert a[:, 0, 0, 0].tolist() == list(range(4 * i, min(4 * i + 4, 10)))
        assert kiln.equal(batch["turned"], kiln.from_numpy(a).permute(0, 2, 3, 1))
        assert batch["turned"].stride() == kiln.from_numpy(a).permute(0, 2, 3, 1).stride()
        assert kiln.equal(batch["half"].float(), kiln.from_numpy(a))
        a += 1  # it is the receiver's to write


def test_other_ways_of_loading():
    rows = TensorDataset(kiln.arange(4096.0 * 12).reshape(12, 4096), kiln.arange(12))
    for options in (
        {"batch_size": 5}, {"batch_size": None}, {"batch_size": 5, "drop_last": True},
        {"sampler": [3, 1, 2], "batch_size": 2}, {"batch_sampler": [[0, 5], [-1]]}, {"batch_size": 5, "prefetch_factor": 7},
    ):  # fmt: skip
        for dataset in (rows, Subset(rows, [5, 4, 3, 9, 11, 0])):
            alone = {k: v for k, v in options.items() if k != "prefetch_factor"}
            assert plain(list(DataLoader(dataset, num_workers=2, **options))) == plain(
                list(DataLoader(dataset, **alone))
            )
    g = kiln.Generator()
    orders = [
        plain(
            [
                y
                for _, y in DataLoader(
                    rows, 4, shuffle=True, num_workers=n, generator=g.manual_seed(3)
                )
            ]
        )
        for n in (0, 2)
    ]
    assert orders[0] == orders[1]


def test_a_kept_batch_stays_as_it_is():
    rows = TensorDataset(kiln.from_numpy(np.repeat(np.arange(64), 4096).reshape(64, 4096)))
    kept, views = [], []
    for i, (x,) in enumerate(DataLoader(rows, batch_size=2, num_workers=2)):
        assert (x.numpy() == [[2 * i], [2 * i + 1]]).all()
        if i % 3 == 0:
            kept.append((i, x))
        elif i % 3 == 1:
            views.append((i, x[1, 5:].numpy()))
        x = None
    assert all((x.numpy() == [[2 * i], [2 * i + 1]]).all() for i, x in kept)
    assert all((v == 2 * i + 1).all() for i, v in views)


def test_memory_is_used_again():
    rows = TensorDataset(kiln.zeros(200, 4096))
    it = iter(DataLoader(rows, batch_size=2, num_workers=1))
    for _ in it:
        slots = len(it._workers[0]._mappings._segments) if it._workers else 0
        assert slots <= 5


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_a_forked_child_keeps_its_batch():
    rows = TensorDataset(kiln.from_numpy(np.repeat(np.arange(40.0), 4096).reshape(40, 4096)))
    context = multiprocessing.get_context("fork")
    told, go = context.Queue(), context.Event()

    def look(x):
        go.wait(30)
        told.put(x.numpy().mean())

    child = None
    for i, (x,) in enumerate(DataLoader(rows, num_workers=1)):
        if i == 1:
            child = context.Process(target=look, args=(x,))
            child.start()
        assert (x.numpy() == i).all()
    go.set()
    assert told.get(timeout=30) == 1
    child.join()


def test_what_a_worker_kept_is_not_overwritten():
    class Keeps(Dataset):
        first = None

        def __len__(self):
            return 12

        def __getitem__(self, i):
            return kiln.full((8192,), float(i))

    d = Keeps()

    def collate(samples):
        batch = kiln.data.default_collate(samples)
        if d.first is None:
            d.first = batch
        return d.first, batch

    for i, (first, batch) in enumerate(DataLoader(d, num_workers=1, collate_fn=collate)):
        assert (first == 0).all()
        assert (batch == i).all()


def test_each_worker_has_numbers_of_its_own():
    def facts(seed):
        g = kiln.Generator().manual_seed(seed)
        return plain(list(DataLoader(Facts(), batch_size=None, num_workers=2, generator=g)))

    made = facts(5)
    base = made[0][2]
    assert [(m[0], m[1], m[2] - base) for m in made] == [(0, 2, 0), (1, 2, 1)] * 2
    assert all(m[2] == m[3] for m in made)
    assert len({m[4] for m in made}) == 4
    assert len({m[5] for m in made}) == 4
    assert [m[:6] for m in facts(5)] == [m[:6] for m in made]
    assert get_worker_info() is None


def test_setting_workers_up():
    def begin(i):
        get_worker_info().dataset.seconds = [0.0] * (i + 9)

    d = Slow([0, 0, 0, 0])
    loader = DataLoader(
        d,
        batch_size=None,
        num_workers=2,
        worker_init_fn=begin,
        collate_fn=lambda _: len(get_worker_info().dataset),
    )
    assert list(loader) == [9, 10, 9, 10]
    assert len(d) == 4


def test_iterable_datasets():
    def load(*lengths, **options):
        return plain(list(DataLoader(Parts(*lengths), num_workers=len(lengths), **options)))

    assert load(3, 3, batch_size=2) == [[0, 1], [100, 101], [2], [102]]
    assert load(5, 1, batch_size=2) == [[0, 1], [100], [2, 3], [4]]
    assert load(5, 1, batch_size=2, drop_last=True) == [[0, 1], [2, 3]]
    assert load(0, 3, batch_size=None) == [100, 101, 102]
    assert load(0, 0) == []
    assert sorted(load(9, 2, batch_size=None, in_order=False)) == [*range(9), 100, 101]


def test_more_samples_than_a_dataset_said():
    class All(Parts):
        def __iter__(self):
            return iter(range(len(self)))

    loader = DataLoader(All(2, 2), num_workers=2)
    assert len(list(loader)) == 8  # nobody asked
    assert len(loader) == 4
    with pytest.warns(UserWarning, match="reported to be 4.*but . samples.*get_worker_info"):
        list(loader)


def test_persistent_workers_stay():
    loader = DataLoader(Facts(), batch_size=None, num_workers=2, persistent_workers=True)
    first, second = list(loader), list(loader)
    assert {f[-1] for f in first} == {s[-1] for s in second}
    assert first[0][4] != second[0][4]  # and their streams go on
    for _ in loader:
        break
    assert len(list(loader)) == 4  # what was made ahead is not given out
    parts = DataLoader(Parts(3, 1), batch_size=None, num_workers=2, persistent_workers=True)
    assert [plain(list(parts)) for _ in range(2)] == [[0, 100, 1, 2]] * 2
    pids = {int(f[-1]) for f in first}
    del loader, parts
    gc.collect()
    assert not pids & {p.pid for p in multiprocessing.active_children()}


def test_order_is_kept_or_not():
    d = Slow([0.4, 0, 0, 0, 0, 0])
    assert list(DataLoader(d, batch_size=None, num_workers=2)) == [0, 1, 2, 3, 4, 5]
    made = list(DataLoader(d, batch_size=None, num_workers=2, in_order=False))
    assert sorted(made) == [0, 1, 2, 3, 4, 5]
    assert made[0] != 0


def test_long_messages_both_ways():
    class Texts(Dataset):
        def __getitems__(self, indices):
            return ["x" * 40] * len(indices)

    order = [list(range(k, k + 1000)) for k in range(400)]
    made = DataLoader(
        Texts(), batch_sampler=order, num_workers=1, prefetch_factor=390, collate_fn="".join
    )
    assert [len(text) for text in made] == [40_000] * 400


def test_workers_compute():
    d = Computing()
    alone = list(DataLoader(d, batch_size=2))  # the pool's threads run when the workers are forked
    made = list(DataLoader(d, batch_size=2, num_workers=2))
    assert all(kiln.allclose(a, b) for a, b in zip(alone, made, strict=True))


def test_two_loaders_at_once():
    a, b = (DataLoader(TensorDataset(kiln.arange(20) + k), 5, num_workers=1) for k in (0, 100))
    for (x,), (y,) in zip(a, b, strict=True):
        assert (x + 100 == y).all()


ALIASED = """
import torch
from torch.utils.data import DataLoader, Dataset

class Ones(Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, i):
        return torch.ones(2) * i

if __name__ == "__main__":
    loader = DataLoader(Ones(), 4, num_workers=1, multiprocessing_context="spawn")
    print([b.tolist() for b in loader], torch.__version__)
"""


def test_spawned_workers_of_programs_written_for_pytorch(tmp_path):
    (tmp_path / "program.py").write_text(ALIASED)
    done = subprocess.run(
        [sys.executable, "-m", "kiln.run", "--torch", str(tmp_path / "program.py")],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.startswith("[[[0.0, 0.0], [1.0, 1.0]"), done.stderr
    assert "kiln" in done.stdout
