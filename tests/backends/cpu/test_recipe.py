"""Programs on disk: a captured Graph's Recipe is found again, and only where it is the same program."""

import pickle
import subprocess
import sys

import numpy as np
import pytest

import kiln
from kiln.backends.cpu import layout, program, recipe
from kiln.backends.cpu.isa import host_isa
from kiln.config import context
from kiln.graph import Graph, input_node, make
from kiln.ops.registry import op


def graph(n: int = 7) -> Graph:
    x = input_node(0, (n,), kiln.float32)
    return Graph([x], [make("exp", (make("neg", (x,)),))])


@pytest.fixture
def empty_cache(tmp_path):
    with context(cache_dir=str(tmp_path)):
        yield tmp_path


@pytest.fixture
def planned(monkeypatch):
    """The names of the programs that were lowered."""
    names = []
    real = layout.plan
    monkeypatch.setattr(
        layout, "plan", lambda g, name, *more: names.append(name) or real(g, name, *more)
    )
    return names


def run(g: Graph, name: str, *arrays: np.ndarray) -> list[np.ndarray]:
    return program.compile(g, name).run(list(arrays))


def test_the_same_graph_is_lowered_once(empty_cache, planned):
    a = np.linspace(-1, 1, 7, dtype=np.float32)
    first, second = run(graph(), "first", a), run(graph(), "second", a)
    assert planned == ["first"]
    np.testing.assert_array_equal(first[0], second[0])


def test_host_calls_checks_literals_and_updates_come_back(empty_cache, planned):
    table = np.arange(12, dtype=np.float32).reshape(4, 3)

    def step(state, index, x):
        state.mul_(2)
        picked = state[index] + kiln.tensor([1.0, 2.0, 3.0])
        return picked, kiln.histc(x), kiln.median(x, 1), x

    def results():
        state, x = kiln.from_numpy(table.copy()), kiln.from_numpy(table[:3] ** 1.5)
        fn = kiln.compile(step)
        out = fn(state, kiln.tensor([1, 3]), x)
        with pytest.raises(IndexError):
            fn(state, kiln.tensor([1, 4]), x)
        return [state, out[0], out[1], *out[2], out[3]]

    first = [t.numpy() for t in results()]
    assert len(planned) == 1
    second = [t.numpy() for t in results()]
    assert len(planned) == 1, "the second program was lowered again"
    np.testing.assert_array_equal(first[0], table * 2)  # the failing call wrote nothing
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_the_name_stands_for():
    isa = host_isa()
    name = recipe.key(graph(), isa)
    assert name == recipe.key(graph(), isa)
    others = {recipe.key(graph(8), isa)}
    with context(no_fuse=True):
        others.add(recipe.key(graph(), isa))
    with context(no_simplify=True):
        others.add(recipe.key(graph(), isa))
    assert name not in others
    assert len(others) == 3


def test_a_change_of_the_code_is_a_change_of_the_name(monkeypatch):
    name = recipe.key(graph(), host_isa())
    monkeypatch.setattr(recipe, "_code", lambda: "other code")
    assert recipe.key(graph(), host_isa()) != name


def test_a_program_with_an_op_from_elsewhere_is_not_kept(empty_cache, planned):
    from kiln.ops.registry import REGISTRY

    @op(infer=lambda x: (x.shape, x.dtype), private=True)
    def test_recipe_elsewhere(input: kiln.Tensor) -> kiln.Tensor:
        return input + 1

    try:
        x = input_node(0, (3,), kiln.float32)
        g = Graph([x], [make("test_recipe_elsewhere", (x,))])
        assert recipe.key(g, host_isa()) is None
        for name in ("a", "b"):
            np.testing.assert_array_equal(run(g, name, np.zeros(3, np.float32))[0], np.ones(3))
        assert planned == ["a", "b"]
    finally:
        del REGISTRY["test_recipe_elsewhere"]


def test_damaged_and_missing_entries_are_made_again(empty_cache, planned):
    a = np.ones(7, np.float32)
    want = run(graph(), "whole", a)[0]
    name = recipe.key(graph(), host_isa())
    file = empty_cache / f"{name}.bin"
    raw = file.read_bytes()
    file.write_bytes(raw[:-9] + b"damage!!!")
    np.testing.assert_array_equal(run(graph(), "damaged", a)[0], want)
    assert file.read_bytes() == raw
    file.unlink()
    np.testing.assert_array_equal(run(graph(), "missing", a)[0], want)
    assert planned == ["whole", "damaged", "missing"]


SECOND = """
import sys
import kiln
from kiln.backends.cpu import cache
f = kiln.compile(lambda x: kiln.exp(x).sum(0))
print(f(kiln.ones(5, 3)).tolist(), cache.stats.compiles, "kiln.backends.cpu.lower" in sys.modules)
"""


def test_another_process_lowers_nothing_unless_kernels_are_missing(empty_cache):
    def process() -> list[str]:
        env = {"KILN_CACHE_DIR": str(empty_cache), "PATH": "", "PYTHONPATH": ":".join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", SECOND], env=env, capture_output=True, text=True, check=True
        )
        return done.stdout.rsplit(maxsplit=2)

    values, compiles, lowered = process()
    assert int(compiles) > 0
    assert lowered == "True"
    assert process() == [values, "0", "False"]
    for file in empty_cache.glob("*.bin"):
        if b"ELF" in file.read_bytes()[:100]:
            file.unlink()
    assert process() == [values, compiles, "True"]


def test_debug_reports_read_from_a_kept_recipe(empty_cache, planned, capsys):
    a = np.ones(7, np.float32)
    run(graph(), "first", a)
    with context(debug=2):
        run(graph(), "second", a)
    text = capsys.readouterr().err
    assert "GB/s" in text
    assert "<exp+… f32[7]>" in text  # and what is fused with it
    with context(debug=3):
        run(graph(), "third", a)
    assert "region of" in capsys.readouterr().err
    assert planned == ["first", "third"]


def test_a_recipe_holds_nothing_of_the_graph():
    made = layout.plan(graph(), "plain", host_isa())
    assert b"kiln.graph" not in pickle.dumps(made)
