"""What a program would freeze: clocks, other random numbers, iterators, counters; and `fullgraph=False`, which then runs eagerly."""

from __future__ import annotations

import datetime
import io
import itertools
import logging
import random
import time
import warnings
from collections import OrderedDict, deque

import numpy as np
import pytest

import kiln
from kiln import nn
from kiln.errors import CaptureError

GENERATOR, STATE, OWN = np.random.default_rng(0), np.random.RandomState(0), random.Random(0)
COUNT, LINES = itertools.count(), iter([1.0, 2.0, 3.0, 4.0])


class Holder:
    generator = np.random.default_rng(1)
    it = iter([1.0, 2.0, 3.0, 4.0])


SOURCES = {
    "random.random": lambda: random.random(),
    "random.Random()": lambda: random.Random().random(),
    "random.seed": lambda: random.seed(3) or random.random(),
    "random.choice": lambda: random.choice([1, 2, 3]),
    "random.Random": lambda: OWN.gauss(0, 1),
    "numpy.random": lambda: np.random.rand(),
    "numpy.random.Generator": lambda: GENERATOR.normal(),
    "numpy.random.RandomState": lambda: STATE.rand(),
    "attribute": lambda: Holder.generator.normal(),
    "time": lambda: time.time(),
    "perf_counter": lambda: time.perf_counter(),
    "datetime": lambda: datetime.datetime.now().timestamp(),
    "count": lambda: next(COUNT),
    "iterator": lambda: next(LINES),
    "iterator of an object": lambda: next(Holder.it),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_what_answers_otherwise_each_time_is_refused(source):
    before = (
        random.getstate(),
        OWN.getstate(),
        np.random.get_state()[1].tolist(),
        STATE.get_state()[2],
    )

    @kiln.compile
    def f(x):
        return x * source()

    with pytest.raises(CaptureError, match="captured function runs once"):
        f(kiln.ones(2))
    assert before == (
        random.getstate(), OWN.getstate(), np.random.get_state()[1].tolist(), STATE.get_state()[2],
    )  # fmt: skip


ARRAY, LIST, DEQUE = np.ones(3, np.float32), [1.0, 2.0], deque([1.0])
ORDERED = OrderedDict(a=1.0)


class Fields:
    def __init__(self):
        self.v, self.array = 1.0, np.ones(3, np.float32)


FIELDS = Fields()
READ = {
    "array": (lambda x: x * ARRAY, lambda: ARRAY.__imul__(2)),
    "tensor of an array": (lambda x: x * kiln.tensor(ARRAY), lambda: ARRAY.__imul__(2)),
    "from_numpy": (lambda x: x * kiln.from_numpy(ARRAY), lambda: ARRAY.__imul__(2)),
    "element": (lambda x: x * float(ARRAY[0]), lambda: ARRAY.__imul__(2)),
    "sum": (lambda x: x * FIELDS.array.sum(), lambda: FIELDS.array.__iadd__(1)),
    "deque": (lambda x: x * DEQUE[0], lambda: DEQUE.appendleft(DEQUE[0] + 1)),
    "OrderedDict": (lambda x: x * ORDERED["a"], lambda: ORDERED.update(a=ORDERED["a"] + 1)),
    "__dict__": (lambda x: x * FIELDS.__dict__["v"], lambda: setattr(FIELDS, "v", FIELDS.v + 1)),
    "default": (lambda x, k=LIST: x * k[0], lambda: LIST.insert(0, LIST[0] + 1)),
}  # fmt: skip


@pytest.mark.parametrize(("fn", "change"), READ.values(), ids=READ)
def test_what_is_read_is_read_as_it_is_at_each_call(fn, change):
    compiled, x = kiln.compile(fn), kiln.ones(3)
    for _ in range(3):
        assert compiled(x).tolist() == compiled(x).tolist() == fn(x).tolist()
        change()


def test_an_array_that_programs_read_where_it_lies_is_no_constant():
    scale = np.ones(3, np.float32)
    f = kiln.compile(lambda x: x * kiln.from_numpy(scale))
    for k in range(3):
        scale[:] = k
        assert f(kiln.ones(3)).tolist() == [k] * 3
    assert f.captures == 1


def test_containers_and_arrays_are_as_they_were_after_a_capture_that_failed():
    array, queue, names, table = np.zeros(2), deque([1]), {"a"}, OrderedDict(a=[1])

    @kiln.compile
    def f(x):
        array[0] = 5
        queue.append(2)
        names.add("b")
        table["a"].append(3)
        table["b"] = 4
        return x * x.sum().item()

    with pytest.raises(CaptureError, match="item"):
        f(kiln.ones(2))
    assert (array.tolist(), list(queue), names, table) == ([0, 0], [1], {"a"}, OrderedDict(a=[1]))


def test_an_error_that_the_function_catches_is_raised_at_its_end():
    @kiln.compile
    def f(x):
        try:
            return x * random.random()
        except Exception:
            return x

    with pytest.raises(CaptureError, match=r"random\.random gives another value"):
        f(kiln.ones(2))


@pytest.mark.parametrize("argument", [iter([1.0, 2.0]), np.random.default_rng(0)])
def test_arguments_from_which_values_are_taken(argument):
    def f(x, a):
        return x * (next(a) if hasattr(a, "__next__") else a.random())

    with pytest.raises(CaptureError, match="argument"):
        kiln.compile(f)(kiln.ones(2), argument)


def test_random_numbers_within_the_function_and_logs_are_its_own_affair():
    log = logging.Logger("f")
    log.addHandler(logging.StreamHandler(io.StringIO()))

    @kiln.compile
    def f(x):
        log.warning("captured")
        own = np.random.default_rng(3).integers(5, 6) + random.Random(3).randint(7, 7)
        return x + own + sum(iter([1, 2]))

    assert f(kiln.ones(1)).tolist() == f(kiln.ones(1)).tolist() == [16]


class Logging(nn.Module):
    """Does what programs do in `forward`: counts, keeps, measures, chooses by value, prints."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.calls, self.norms, self.last = 0, [], {}

    def forward(self, x):
        self.calls += 1
        self.last["shape"] = x.shape
        y = self.linear(x)
        self.norms.append(y.norm().item())
        return y * 2 if self.norms[-1] > 1 else y


def test_without_fullgraph_it_runs_eagerly_and_says_so_once():
    kiln.manual_seed(0)
    model, x = Logging(), kiln.randn(4, 3)
    with pytest.raises(CaptureError, match="item"):
        kiln.compile(model)(x)
    assert (model.calls, model.norms, model.last) == (0, [], {})
    compiled = kiln.compile(model, fullgraph=False)
    with pytest.warns(
        UserWarning, match=r"Logging runs in eager mode.*item.*fullgraph=True"
    ) as told:
        got = compiled(x)
    assert told[0].filename == __file__
    assert (model.calls, len(model.norms), model.last) == (1, 1, {"shape": x.shape})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compiled(kiln.randn(5, 3))
        got.sum().backward()
    want, _ = model.linear.weight.grad.clone(), model.zero_grad()
    model(x).sum().backward()
    assert kiln.equal(want, model.linear.weight.grad)
    assert model.calls == 3


def test_only_calls_that_cannot_be_captured_run_eagerly():
    runs = []
    keep = runs.append

    def f(x, log):
        if log:
            keep(x.sum().item())
        return x * 2

    f = kiln.compile(f, fullgraph=False)
    assert f(kiln.ones(2), False).tolist() == [2, 2]
    with pytest.warns(UserWarning, match="eager"):
        assert f(kiln.ones(2), True).tolist() == [2, 2]
    assert f(kiln.ones(2) * 3, False).tolist() == [6, 6]
    assert f(kiln.ones(2), True).tolist() == [2, 2]
    assert (runs, f.captures) == ([2.0, 2.0], 2)


def test_a_path_that_cannot_be_captured():
    """The first branch has a program when the second turns out to read a value."""

    @kiln.compile(fullgraph=False)
    def f(x):
        if x.sum() > 0:
            return x + 1
        return x * x.sum().item()

    assert f(kiln.ones(2)).tolist() == [2, 2]
    with pytest.warns(UserWarning, match="eager"):
        assert f(-kiln.ones(2)).tolist() == [2, 2]
    assert f(kiln.ones(2)).tolist() == [2, 2]


def test_prints_and_counters_at_each_call(capsys):
    class Printing(nn.Module):
        n = 0

        def forward(self, x):
            self.n += 1
            print("call", self.n)
            return x

    m = kiln.compile(Printing(), fullgraph=False)
    with pytest.warns(UserWarning, match="printed differs"):
        m(kiln.ones(1))
    m(kiln.ones(1))
    assert capsys.readouterr().out.split("\n") == ["call 1", "call 2", ""]


def test_a_counter_that_is_only_counted():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.n = 0

        def forward(self, x):
            self.n += 1
            return x

    with pytest.raises(CaptureError, match=r"\.n was 0 and is 1"):
        kiln.compile(Counting())(kiln.ones(2))


def test_programs_run_as_pytorchs_have_its_default(monkeypatch):
    monkeypatch.setattr(kiln.naming, "name", "torch")
    f = kiln.compile(lambda x: x * x.sum().item())
    with pytest.warns(UserWarning, match="eager"):
        assert f(kiln.ones(2)).tolist() == [2, 2]
    with pytest.raises(CaptureError):
        kiln.compile(lambda x: x * x.sum().item(), fullgraph=True)(kiln.ones(2))
