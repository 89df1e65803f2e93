"""Graphs as values: equal nodes are one, text prints and parses back, illegal graphs are refused."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest

import kiln
import kiln.nn.functional as F
from kiln import dtypes as dt
from kiln.backends import reference
from kiln.backends.cpu.lower import lowers
from kiln.compile import pipeline
from kiln.errors import KilnError, KilnValueError
from kiln.graph import Graph, const, input_node, literal, make, spec
from kiln.graph.node import _node, item
from kiln.graph.text import parse_graph, print_graph
from kiln.ops.registry import REGISTRY
from kiln.shape import Size

sys.path.insert(0, str(Path(__file__).parent.parent / "conformance"))
from cases import OPS, leaves, tensors

X = input_node(0, (2, 3), dt.float32, "x")
Y = input_node(1, (2, 3), dt.float32, 'it\'s "y"')


def plan(run):
    """The plan of a compiled function that was called once."""
    return run.entries[0].root.plan


def test_equal_nodes_are_one_and_different_numbers_are_not():
    assert make("mul", (X, Y)) is make("mul", (X, Y))
    assert make("mul", (X, Y)) is not make("mul", (Y, X))
    values = [0.0, -0.0, float("nan"), 1.0]
    nodes = [const(v, dt.float32) for v in values]
    assert len({id(n) for n in nodes}) == 4
    assert const(1, dt.int64) is not const(1, dt.int32)
    assert const(1, dt.int64) is not const(True, dt.bool_)
    assert math.copysign(1, nodes[1].args[0]) == -1


def test_text_of_odd_graphs():
    graphs = [
        Graph([], [], {}),
        Graph([X, Y], [X, X, make("add", (X, Y, 1))], {2: 0}),
        Graph([X], [const(v, d) for v, d in ((float("nan"), dt.float32), (float("-inf"), dt.float64),
              (-0.0, dt.float32), (True, dt.bool_), (complex(-0.0, float("nan")), dt.complex64),
              (-(2**63), dt.int64), (2**64 - 1, dt.uint64), (1e-30, dt.bfloat16))]),
        Graph([X], [literal(np.array([[1, 2], [3, 4]], np.int16)), literal(np.zeros((0, 3), dt.bfloat16.np))]),
        Graph([X], [item(make("topk", (X, 2, -1, True, True)), 1), make("sum", (X, (0, 1), True))]),
    ]  # fmt: skip
    for g in graphs:
        text = print_graph(g)
        again = parse_graph(text)
        assert print_graph(again) == text
        assert again.updates == g.updates
        for a, b in zip(g.outputs, again.outputs, strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            if a.op.name != "literal":
                assert a is b


@pytest.mark.parametrize("case", [c for c in OPS if c.good and not c.random], ids=lambda c: c.id)
def test_text_of_every_op(case):
    for _, s in case.good[:2]:
        args, kwargs = tensors(s)
        run = kiln.compile(
            lambda *_, args=args, kwargs=kwargs: case(*args, **kwargs), backend="reference"
        )
        try:
            run(*leaves([args, kwargs]))
        except KilnError:
            continue  # needs values, which the conformance suite counts
        graph = plan(run).graph
        for g in (graph, pipeline.optimize(graph, lowers)):
            text = print_graph(g)
            assert print_graph(parse_graph(text)) == text


def test_text_keeps_a_programs_meaning():
    model = kiln.nn.Sequential(kiln.nn.Linear(3, 4), kiln.nn.BatchNorm1d(4), kiln.nn.Dropout())
    opt = kiln.optim.Adam(model.parameters())

    def step(x, y):
        opt.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        opt.step()
        return loss

    run = kiln.compile(step, backend="reference")
    run(kiln.ones(5, 3), kiln.tensor([0, 1, 2, 3, 0]))
    g = plan(run).graph
    again = parse_graph(print_graph(g))
    r = np.random.default_rng(0)

    def inputs():
        return [np.asarray(np.abs(r.normal(size=n.shape)) * 3).astype(n.dtype.np) for n in g.inputs]

    a = inputs()
    b = [x.copy() for x in a]
    for p, arrays in ((g, a), (again, b)):
        arrays.append(reference.compile(p, "p").run(arrays))
    for u, v in zip([*a.pop(), *a], [*b.pop(), *b], strict=True):
        np.testing.assert_array_equal(u, v)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", ""),
        ("graph(", "graph("),
        ("graph(%0: f32[2]) {", "graph(%0: f32[2]) {"),
        ("graph(%0: f32[2]) {\n return %0", "return %0"),
        ("graph(%0: f99[2]) {\n return %0\n}", "graph(%0: f99[2]) {"),
        ("graph(%0: f32[2], nonsense) {\n return %0\n}", "graph(%0: f32[2], nonsense) {"),
        ("graph(%0: f32[2]) {\n %1 = nosuchop(%0) : f32[2]\n return %1\n}", "%1 = nosuchop(%0) : f32[2]"),
        ("graph(%0: f32[2]) {\n %1 = exp(%7) : f32[2]\n return %1\n}", "%1 = exp(%7) : f32[2]"),
        ("graph(%0: f32[2]) {\n %1 = exp(%0) : f32[3]\n return %1\n}", "%1 = exp(%0) : f32[3]"),
        ("graph(%0: f32[2]) {\n %1 = exp(%0, : f32[2]\n return %1\n}", "%1 = exp(%0, : f32[2]"),
        ("graph(%0: f32[2]) {\n %1 = exp() : f32[2]\n return %1\n}", "%1 = exp() : f32[2]"),
        ("graph(%0: f32[2]) {\n %1 = exp(__import__('os')) : f32[2]\n return %1\n}", "%1 = exp(__import__('os')) : f32[2]"),
        ("graph(%0: f32[2]) {\n %1 = matmul(%0, %0) : f32[2, 2]\n return %1\n}", "%1 = matmul(%0, %0) : f32[2, 2]"),
        ("graph(%0: f32[2]) {\n %1 = reshape(%0, (3,)) : f32[3]\n return %1\n}", "%1 = reshape(%0, (3,)) : f32[3]"),
        ("graph(%0: f32[2]) {\n %1 = literal('@@') : f32[2]\n return %1\n}", "%1 = literal('@@') : f32[2]"),
        ("graph(%0: f32[2]) {\n return %9\n}", "return %9"),
        ("graph(%0: f32[2]) {\n return %0\n return %0\n}", "return %0"),
        ("graph(%0: f32[2]) {\n}", "graph(%0: f32[2]) {"),
        ("graph(%0: f32[2]) updates {5: 0} {\n return %0\n}", "graph(%0: f32[2]) updates {5: 0} {"),
    ],
)  # fmt: skip
def test_text_that_is_no_graph(text, line):
    with pytest.raises(KilnValueError, match="not the text of a Graph") as e:
        parse_graph(text)
    assert str(e.value).splitlines()[1] == f"received: {line}"


def raw(name, args, shape=(2, 3), dtype=dt.float32, outputs=None):
    return _node(
        REGISTRY[name], args, None if outputs else Size(shape), dtype, outputs, "made.py:1"
    )


@pytest.mark.parametrize(
    "graph",
    [
        Graph([Y], [Y]),
        Graph([X], [make("exp", (Y,))]),
        Graph([X], [raw("exp", (X,), (3, 2))]),
        Graph([X], [raw("exp", (X,), dtype=dt.float64)]),
        Graph([X], [raw("exp", ())]),
        Graph([X], [raw("mul", (X, const(2, dt.int64)))]),
        Graph([X], [raw("reshape", (X, (7,)), (7,))]),
        Graph([X], [raw("mul", (X, np.float32(2)))]),
        Graph([X], [make("topk", (X, 2, -1, True, True))]),
        Graph([X], [raw("exp", (make("topk", (X, 2, -1, True, True)),))]),
        Graph([X], [make("sum", (X, None, False))], {0: 0}),
        Graph([X], [X, make("exp", (X,))], {0: 0, 1: 0}),
    ],
    ids=range(12),
)
def test_illegal_graphs(graph):
    with pytest.raises(KilnError, match="illegal after pass 'here'"):
        spec.check(graph, "here")


def test_legal_graphs_pass():
    spec.check(Graph([X, Y], [make("add", (X, Y, 1)), X], {0: 0}))
