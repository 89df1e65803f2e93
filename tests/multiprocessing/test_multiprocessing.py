"""Tensors between processes: shared, not copied, and gone with the last process that has them."""

import gc
import os
import pickle
import signal
import time

import numpy as np
import pytest

import kiln
import kiln.multiprocessing as mp
from kiln import nn

HERE = "fork" if "fork" in mp.get_all_start_methods() else "spawn"


def double(inbox, outbox):
    for x in iter(inbox.get, None):
        x *= 2
        outbox.put(x)
    inbox.get()  # what was sent lives as long as its sender


def fill(x):
    x.fill_(7)


def fails(i, text):
    if i == 1:
        raise ValueError(text)
    time.sleep(30)


def ends(i, how):
    if i == 0:
        how()
    time.sleep(30)


def counts(i, total):
    total[i] = i + 1


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(autouse=True)
def _nothing_is_left():
    yield
    gc.collect()
    assert not mp.active_children()


def test_sharing_in_place():
    x = kiln.arange(6.0).reshape(2, 3)
    assert not x.is_shared()
    assert x.share_memory_() is x
    assert x.is_shared()
    assert x.share_memory_().tolist() == [[0, 1, 2], [3, 4, 5]]
    y = x[1]
    assert y.is_shared()
    p = mp.get_context(HERE).Process(target=fill, args=(x,))
    p.start()
    p.join()
    assert y.tolist() == [7, 7, 7]
    for t in (
        kiln.zeros(0),
        kiln.tensor(3),
        kiln.ones(2, 3, 4, dtype=kiln.bfloat16).transpose(0, 1),
    ):
        strides = t.stride()
        assert t.clone().share_memory_().is_shared()
        assert kiln.equal(t.contiguous().share_memory_(), t)
        assert t.stride() == strides
    whole = kiln.arange(6)
    part = whole[2:4].share_memory_()
    assert whole.is_shared()
    part += 10
    assert whole.tolist() == [0, 1, 12, 13, 4, 5]
    learned = kiln.ones(3, requires_grad=True)
    (learned.share_memory_() * 2).sum().backward()
    assert learned.grad.tolist() == [2, 2, 2]


@pytest.mark.skipif(HERE != "fork", reason="needs fork")
def test_modules_train_in_other_processes():
    model = nn.Linear(4, 1).share_memory()
    assert all(p.is_shared() for p in model.parameters())
    before = model.weight.detach().clone()

    def train():
        opt = kiln.optim.SGD(model.parameters(), lr=0.1)
        model(kiln.ones(8, 4)).sum().backward()
        opt.step()

    p = mp.Process(target=train)
    p.start()
    p.join()
    assert p.exitcode == 0
    assert kiln.allclose(model.weight, before - 0.8)


@pytest.mark.parametrize("method", [HERE, "spawn"])
def test_queues(method):
    context = mp.get_context(method)
    inbox, outbox = context.Queue(), context.Queue()
    p = context.Process(target=double, args=(inbox, outbox))
    p.start()
    sent = [
        kiln.arange(5), kiln.ones(2, 3, dtype=kiln.bfloat16), nn.Parameter(kiln.ones(2)).detach(), kiln.zeros(0, 2),
        kiln.arange(6).reshape(2, 3).T.clone(),
    ]  # fmt: skip
    for x in sent:
        inbox.put(x)
        got = outbox.get(timeout=30)
        assert (got.dtype, got.shape) == (x.dtype, x.shape)
        assert got.is_shared()
        assert kiln.equal(got, x)  # it is one memory
        got += 1
        assert kiln.equal(got, x)
    whole = kiln.arange(6)
    inbox.put(whole[2:4])
    assert outbox.get(timeout=30).tolist() == [4, 6]
    assert whole.tolist() == [0, 1, 4, 6, 4, 5]  # all of the memory moves
    inbox.put(None)
    inbox.put(None)
    p.join(30)
    assert p.exitcode == 0


def test_what_a_tensor_is_stays():
    a, b = mp.Pipe()
    for x in (nn.Parameter(kiln.ones(3)), kiln.ones(2, requires_grad=True), kiln.zeros(2, 0)):
        a.send(x)
        got = b.recv()
        assert type(got) is type(x)
        assert got.requires_grad == x.requires_grad
        assert kiln.equal(got, x)
    a.send(kiln.arange(4).untyped_storage())
    assert b.recv().tolist() == list(np.arange(4).view(np.uint8))
    with pytest.raises(RuntimeError, match=r"history(.|\n)*detach"):
        a.send(kiln.ones(2, requires_grad=True) * 2)
    assert pickle.loads(pickle.dumps(kiln.ones(2).share_memory_())).tolist() == [
        1,
        1,
    ]  # a copy elsewhere


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_memory_is_given_back():
    def use():
        x = kiln.zeros(1 << 16).share_memory_()
        a, b = mp.Pipe()
        a.send(x)
        assert b.recv().data_ptr() == x.data_ptr()  # one mapping

    def mappings():
        with open("/proc/self/maps") as f:
            return sum("memfd:kiln" in line for line in f)

    use()
    gc.collect()
    before = len(os.listdir("/proc/self/fd")), mappings()
    for _ in range(3):
        use()
    gc.collect()
    assert (len(os.listdir("/proc/self/fd")), mappings()) == before


def test_spawning():
    total = kiln.zeros(2).share_memory_()
    assert mp.spawn(counts, (total,), nprocs=1) is None
    assert mp.start_processes(counts, (total,), nprocs=2, start_method=HERE) is None
    assert total.tolist() == [1, 2]


def test_spawned_processes_that_fail():
    with pytest.raises(
        mp.ProcessRaisedException, match=r"Process 1 terminated(.|\n)*ValueError: no luck"
    ) as caught:
        mp.start_processes(fails, ("no luck",), nprocs=2, start_method=HERE)
    assert caught.value.error_index == 1
    assert type(pickle.loads(pickle.dumps(caught.value))) is mp.ProcessRaisedException
    for how, code, name in ((killed, -9, "SIGKILL"), (lambda: os._exit(4), 4, None)):
        context = mp.start_processes(ends, (how,), nprocs=2, start_method=HERE, join=False)
        assert len(context.pids()) == 2
        with pytest.raises(mp.ProcessExitedException) as caught:
            while not context.join(timeout=20):
                pass
        assert (caught.value.exit_code, caught.value.signal_name, caught.value.error_index) == (
            code,
            name,
            0,
        )


def test_names():
    assert mp.get_sharing_strategy() in mp.get_all_sharing_strategies()
    mp.set_sharing_strategy("file_system")
    assert mp.get_sharing_strategy() == "file_system"
    mp.set_sharing_strategy("file_descriptor")
    with pytest.raises(AssertionError, match="no such strategy"):
        mp.set_sharing_strategy("telepathy")
    for name in (
        "Process",
        "Queue",
        "Pool",
        "Manager",
        "set_start_method",
        "cpu_count",
        "Event",
        "Barrier",
    ):
        assert hasattr(mp, name)
