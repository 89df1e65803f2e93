"""Replays: after any number of them each change is still seen, and nothing is looked at twice that has not changed."""

import threading

import numpy as np
import pytest

import kiln
import kiln.nn.functional as F
from kiln import nn
from kiln.compile import entries
from kiln.config import context

FACTOR = 2.0


def ones(*shape):
    return kiln.ones(shape)


def same(a, b):
    np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-6, strict=True)


class Settings:
    def __init__(self):
        self.scale = 1.0
        self.table = {"a": [1.0, {"b": (2.0, [3.0])}], "s": {1, 2}}


class Leaf:
    def __init__(self, scale):
        self.scale, self.inner = scale, None


def by_index(leaves):
    return lambda x: x * leaves[0].scale + leaves[1].inner.scale


def by_loop(leaves):
    def fn(x):
        for leaf in leaves:
            x = x * leaf.scale + leaf.inner.scale
        return x

    return fn


def by_dict(leaves):
    table = {"a": leaves, "b": {"c": leaves[1]}}
    return lambda x: x * table["a"][0].scale + table["b"]["c"].inner.scale


def by_name(leaves):
    first, second = leaves
    return lambda x: x * getattr(first, "scale") + getattr(second.inner, "scale", 0.0)  # noqa: B009


def by_comprehension(leaves):
    return lambda x: x + sum(leaf.scale + leaf.inner.scale for leaf in leaves)


def in_a_helper(leaves):
    def total(group):
        return group[0].scale + group[1].inner.scale

    return lambda x: x * total(leaves)


@pytest.mark.parametrize(
    "make", [by_index, by_loop, by_dict, by_name, by_comprehension, in_a_helper]
)
def test_attributes_of_objects_in_containers_and_by_name(make):
    leaves = [Leaf(1.0), Leaf(2.0)]
    for leaf in leaves:
        leaf.inner = Leaf(3.0)
    fn = make(leaves)
    run = kiln.compile(fn)
    x = ones(2)
    for _ in range(3):
        same(run(x), fn(x))
    assert run.captures == 1
    leaves[0].scale = 5.0
    same(run(x), fn(x))
    leaves[1].inner.scale = 7.0
    same(run(x), fn(x))
    assert run.captures == 3
    same(run(x), fn(x))
    assert run.captures == 3


class World:
    """A function that reads a fact of every kind, and the same in eager mode."""

    def __init__(self):
        self.settings, self.bias = Settings(), kiln.ones(3)
        self.view = self.bias[:2]
        self.model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.0))
        self.p = nn.Parameter(ones(3))
        self.opt = kiln.optim.SGD([self.p], lr=0.0)
        cell = 0.5
        settings, bias, view, model, p, opt = (
            self.settings, self.bias, self.view, self.model, self.p, self.opt,
        )  # fmt: skip

        def set_cell(value):
            nonlocal cell
            cell = value

        def fn(x, y, n=1, *, flag=True):
            table = settings.table
            s = settings.scale + table["a"][0] + table["a"][1]["b"][0] + table["a"][1]["b"][1][0]
            s = s + len(table["s"]) + n + FACTOR + cell + flag
            opt.step()
            out = model(x) * s + y + bias + view.sum() + p.detach()
            return out, kiln.is_grad_enabled(), kiln.ones(1)

        self.fn, self.set_cell = fn, set_cell
        self.args, self.kwargs = (ones(2, 3), ones(3)), {}


def set_factor(value):
    global FACTOR
    FACTOR = value


def gradient(w):
    w.p.grad = ones(3)


def argument(i, make):
    def change(w):
        args = list(w.args)
        args[i] = make(args[i])
        w.args = tuple(args)

    return change


def memory(w):
    w.bias.data = kiln.full((3,), 7.0)
    w.view.data = w.bias[:2].detach()


CHANGES = {
    "global": lambda w: set_factor(3.0),
    "cell": lambda w: w.set_cell(5.0),
    "field": lambda w: setattr(w.settings, "scale", 9.0),
    "element": lambda w: w.settings.table["a"].__setitem__(0, 4.0),
    "key": lambda w: w.settings.table.__setitem__("c", 4.0),
    "element deep inside": lambda w: w.settings.table["a"][1]["b"][1].__setitem__(0, 8.0),
    "longer list": lambda w: w.settings.table["a"].append(1.0),
    "set": lambda w: w.settings.table["s"].add(3),
    "another dict": lambda w: setattr(w.settings, "table", {**w.settings.table, "a": [5.0, w.settings.table["a"][1]]}),
    "gone": lambda w: w.settings.__dict__.pop("scale"),
    "an int for a float": lambda w: setattr(w.settings, "scale", 1),
    "module flag": lambda w: w.model.eval(),
    "submodule": lambda w: w.model.__setitem__(1, nn.ReLU()),
    "parameter": lambda w: setattr(w.model[0], "weight", nn.Parameter(ones(3, 3))),
    "requires_grad of state": lambda w: setattr(w.model[0].weight, "requires_grad", False),
    "optimizer option": lambda w: w.opt.param_groups[0].__setitem__("momentum", 0.5),
    "optimizer parameters": lambda w: w.opt.add_param_group({"params": [nn.Parameter(ones(1))]}),
    "optimizer hook": lambda w: w.opt.register_step_post_hook(lambda *a: None),
    "gradient": gradient,
    "other memory of a view and its base": memory,
    "state of another dtype": lambda w: setattr(w.p, "data", w.p.data.double()),
    "state of another layout": lambda w: setattr(w.model[0].weight, "data", ones(3, 6)[:, ::2]),
    "states that share memory": lambda w: setattr(w.p, "data", w.model[0].bias.data),
    "shape": argument(0, lambda x: ones(4, 3)),
    "dtype": argument(1, lambda x: x.double()),
    "layout": argument(0, lambda x: ones(3, 2).t()),
    "requires_grad": argument(0, lambda x: ones(2, 3).requires_grad_()),
    "history": argument(0, lambda x: ones(2, 3).requires_grad_() * 2),
    "a state tensor as argument": lambda w: setattr(w, "args", (w.args[0], w.bias)),
    "value": lambda w: setattr(w, "args", (*w.args, 3)),
    "keyword": lambda w: setattr(w, "kwargs", {"n": 1}),
    "keyword's value": lambda w: setattr(w, "kwargs", {"flag": False}),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen_after_many_replays(change):
    w = World()
    run = kiln.compile(w.fn)
    try:
        for _ in range(4):
            same(run(*w.args)[0], w.fn(*w.args)[0])
        assert run.captures == 1
        CHANGES[change](w)
        if change == "gone":
            with pytest.raises(AttributeError):
                run(*w.args)
            return
        for _ in range(3):
            same(run(*w.args, **w.kwargs)[0], w.fn(*w.args, **w.kwargs)[0])
        assert run.captures == 2
    finally:
        set_factor(2.0)


def test_one_memory_for_two_arguments_is_another_program():
    def fn(x, y, z):
        x.add_(1)
        return x + y + z

    run = kiln.compile(fn)
    for _ in range(3):
        run(ones(2), ones(2), ones(2))
        x = ones(2)
        same(run(x, x, ones(2)), kiln.full((2,), 5.0))
        x = ones(2)
        same(run(x, ones(2), x), kiln.full((2,), 5.0))
    assert run.captures == 3


def test_modes_are_seen_after_many_replays():
    p = nn.Parameter(ones(2))
    run = kiln.compile(lambda x: (x * p, kiln.ones(1)))
    for _ in range(3):
        assert run(ones(2))[0].requires_grad
        with kiln.no_grad():
            assert not run(ones(2))[0].requires_grad
        with kiln.inference_mode():
            assert not run(ones(2))[0].requires_grad
        with context(backend="reference"):
            same(run(ones(2))[0], p * 1)
        try:
            kiln.set_default_dtype(kiln.float64)
            assert run(ones(2))[1].dtype is kiln.float64
        finally:
            kiln.set_default_dtype(kiln.float32)
    assert run.captures == 5


def test_equal_values_in_other_objects_are_no_change():
    w = World()
    run = kiln.compile(w.fn)
    x = ones(2, 3), ones(3)
    for i in range(1, 7):
        w.settings.scale = float(str(1.0))
        w.settings.table = {"a": [1.0, {"b": (2.0, [3.0])}], "s": {1, 2}}
        w.opt.param_groups[0]["lr"] = 0.1 * i
        w.model[0].weight.data = kiln.full((3, 3), float(i))
        same(run(*x)[0], w.fn(*x)[0])
    assert run.captures == 1


def test_nothing_is_looked_at_again_where_nothing_changed(monkeypatch):
    w = World()
    run = kiln.compile(w.fn)
    run(*w.args)
    run(*w.args)

    def looked(*args):
        raise AssertionError("a whole look at the facts")

    for name in ("StateGuard", "OwnerGuard", "ValueGuard"):
        monkeypatch.setattr(getattr(entries, name), "broken", looked)
    run.entries[0].__dict__.pop("match")
    run.entries[0].write_match()
    for _ in range(3):
        run(ones(2, 3), ones(3))
    w.settings.scale = 3.0
    with pytest.raises(AssertionError, match="whole look"):
        run(ones(2, 3), ones(3))


def test_state_and_arguments_that_are_not_contiguous_are_written_where_they_lie():
    state = kiln.from_numpy(np.zeros((4, 3), np.float32).T)

    def fn(x):
        state.add_(x)
        x.mul_(2)
        return state.sum()

    run = kiln.compile(fn)
    x = kiln.from_numpy(np.ones((8, 3), np.float32)[::2].T)
    for i in range(1, 4):
        before = x.clone()
        expected = state + x
        same(run(x), expected.sum())
        same(state, expected)
        same(x, before * 2)
        assert i == 1 or run.captures == 1


def test_a_gradient_that_is_not_contiguous_is_added_to():
    p = nn.Parameter(ones(3, 4))
    run = kiln.compile(lambda x: (p * x).sum().backward())
    p.grad = kiln.from_numpy(np.ones((4, 3), np.float32).T)
    for i in range(2, 5):
        run(ones(3, 4))
        same(p.grad, kiln.full((3, 4), float(i)))


def test_results_are_new_tensors_each_time():
    run = kiln.compile(lambda x: (x + 1, x * 2))
    a, b = run(ones(2))
    c, d = run(kiln.zeros(2))
    same(a, kiln.full((2,), 2.0))
    same(b, kiln.full((2,), 2.0))
    same(c, ones(2))
    same(d, kiln.zeros(2))


def test_versions_of_written_tensors_count_each_replay():
    p = nn.Parameter(ones(2))
    q = nn.Parameter(ones(2))

    @kiln.compile
    def touch():
        with kiln.no_grad():
            p.add_(1)

    loss = (p * q).sum()
    for _ in range(3):
        touch()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_an_index_error_leaves_state_gradients_and_versions_alone():
    table = nn.Parameter(ones(4, 2))
    opt = kiln.optim.SGD([table], lr=1.0)

    @kiln.compile
    def step(i):
        opt.zero_grad()
        F.embedding(i, table).sum().backward()
        opt.step()

    for _ in range(3):
        step(kiln.tensor([0, 1]))
    before, grad, version = table.detach().clone(), table.grad, table._version
    for _ in range(2):
        with pytest.raises(IndexError):
            step(kiln.tensor([0, 4]))
        same(table, before)
        assert table.grad is grad
        assert table._version == version
    step(kiln.tensor([0, 1]))
    assert (table[0] == before[0] - 1).all()


def test_python_threads_call_the_same_and_different_programs():
    kiln.manual_seed(0)
    models = [nn.Sequential(nn.Linear(16, 128), nn.ReLU(), nn.Linear(128, 4)) for _ in range(2)]
    runs = [kiln.compile(lambda x, m=m: m(x)) for m in models]
    inputs = [kiln.randn(n, 16) for n in (4, 4, 64, 300)]
    expected = [[m(x) for x in inputs] for m in models]
    wrong: list[object] = []

    def work(seed):
        order = np.random.default_rng(seed)
        try:
            for _ in range(60):
                j, k = int(order.integers(2)), int(order.integers(4))
                got = runs[j](inputs[k]).detach().numpy()
                if not np.allclose(got, expected[j][k].detach().numpy(), rtol=1e-4, atol=1e-5):
                    wrong.append((j, k))
        except Exception as e:
            wrong.append(e)

    team = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for t in team:
        t.start()
    for t in team:
        t.join()
    assert wrong == []


def test_threads_that_train_one_model_lose_no_step():
    p = nn.Parameter(kiln.zeros(8))

    @kiln.compile
    def step(x):
        with kiln.no_grad():
            p.add_(x)

    step(kiln.zeros(8))

    def work():
        for _ in range(200):
            step(ones(8))

    team = [threading.Thread(target=work) for _ in range(4)]
    for t in team:
        t.start()
    for t in team:
        t.join()
    same(p, kiln.full((8,), 800.0))


def test_modes_are_those_of_pytorch():
    def fn(x):
        return x.sin() + 1

    x = kiln.arange(5.0)
    want = kiln.compile(fn)(x).numpy().tobytes()
    for mode in ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs", None):
        assert kiln.compile(fn, mode=mode)(x).numpy().tobytes() == want
    for mode in ("fastest", "max-autotune-gemm", 3):
        with pytest.raises(RuntimeError, match="no such mode"):
            kiln.compile(fn, mode=mode)
        with pytest.raises(RuntimeError, match="no such mode"):
            kiln.compile(mode=mode)
    with pytest.raises(RuntimeError, match="not both"):
        kiln.compile(fn, mode="default", options={})
