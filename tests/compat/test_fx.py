"""Programs as Graphs of Python calls: tracing, changing and running them."""

from __future__ import annotations

import copy
import math
import operator

import pytest

import kiln
import kiln.nn.functional as F
from kiln import fx, nn
from kiln.nn.functional import gelu


@fx.wrap
def helper(x, n):
    return x * n if n > 1 else x


fx.wrap("len")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.scale = nn.Parameter(kiln.ones(2))
        self.register_buffer("shift", kiln.ones(1))
        self.seq = nn.Sequential(nn.Linear(8, 4), nn.ReLU())

    def forward(self, x, k=2):
        y = F.relu(self.conv(x)) * self.scale.view(1, -1, 1, 1) + self.shift
        y = gelu(y).flatten(1)
        a, b = kiln.split(y, 4, dim=1)
        y = self.seq(kiln.cat([a, b], dim=1))
        return {"out": helper(y, 3)[:, :2] / math.sqrt(4), "n": (x.shape[0], k)}


def test_a_module_is_traced_copied_and_run():
    kiln.manual_seed(0)
    net, x = Net(), kiln.randn(3, 1, 4, 4)
    gm = fx.symbolic_trace(net)
    want = net(x)
    for program in (
        gm,
        copy.deepcopy(gm),
        kiln.compile(gm),
        fx.Transformer(gm).transform(),
        fx.Interpreter(gm).run,
    ):
        got = program(x)
        kiln.testing.assert_close(got["out"], want["out"])
        assert got["n"] == (3, 2)
    assert gm(x, 5)["n"] == (3, 5)
    assert gm.state_dict().keys() == net.state_dict().keys()
    assert gm.conv.weight is net.conv.weight
    ops = [(n.op, n.target) for n in gm.graph.nodes]
    assert ("call_module", "conv") in ops
    assert ("call_module", "seq.0") in ops
    assert ("call_function", F.relu) in ops
    assert ("call_function", helper) in ops
    assert ("get_attr", "scale") in ops
    gm.graph.lint()
    gm(x)["out"].sum().backward()
    assert net.scale.grad is not None


def test_functions_are_themselves_again_after_a_trace():
    relu = F.relu
    with pytest.raises(ValueError, match="control flow"):
        fx.symbolic_trace(lambda x: F.relu(x) if x.sum() > 0 else x)
    assert F.relu is relu
    assert math.sqrt(4) == 2
    assert len([1]) == 1
    assert nn.Linear(2, 2)(kiln.ones(1, 2)).shape == (1, 2)


def test_a_graph_is_changed():
    gm = fx.symbolic_trace(lambda x, y: kiln.relu(x + y) * 2)
    for n in gm.graph.nodes:
        if n.target is kiln.relu:
            with gm.graph.inserting_after(n):
                new = gm.graph.call_function(kiln.neg, (n.args[0],))
            n.replace_all_uses_with(new)
            gm.graph.erase_node(n)
    add = next(n for n in gm.graph.nodes if n.target is operator.add)
    with pytest.raises(RuntimeError, match="still had 1 users"):
        gm.graph.erase_node(add)
    gm.recompile()
    assert gm(kiln.ones(1), kiln.ones(1)).item() == -4
    assert "neg" in gm.code
    with gm.graph.inserting_before(gm.graph.output_node()):
        gm.graph.call_function(kiln.sin, (add,))
    assert gm.graph.eliminate_dead_code()
    assert not gm.graph.find_nodes(op="call_function", target=kiln.sin)


def test_a_pattern_is_replaced():
    gm = fx.symbolic_trace(lambda x, y: kiln.neg(x) + y * 2 + (kiln.neg(y) + x))
    found = fx.replace_pattern(gm, lambda a, b: kiln.neg(a) + b, lambda a, b: b - a)
    assert len(found) == 2
    assert not gm.graph.find_nodes(op="call_function", target=kiln.neg)
    assert gm(kiln.tensor(3.0), kiln.tensor(5.0)).item() == -3 + 10 + (-5 + 3)


def test_a_graph_made_by_hand_and_a_tracer_with_other_leaves():
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.output(graph.call_method("add", (graph.call_module("fc", (x,)), 1)))
    fc = nn.Linear(2, 1)
    assert kiln.equal(fx.GraphModule({"fc": fc}, graph)(kiln.ones(1, 2)), fc(kiln.ones(1, 2)) + 1)

    class Leaves(fx.Tracer):
        def is_leaf_module(self, m, path):
            return isinstance(m, nn.Sequential) or super().is_leaf_module(m, path)

    assert [n.target for n in Leaves().trace(Net()).nodes if n.op == "call_module"] == [
        "conv",
        "seq",
    ]
    kept = fx.Tracer().trace(lambda x, flag: x + 1 if flag else x - 1, {"flag": False})
    assert [n.target for n in kept.nodes if n.op == "call_function"] == [operator.sub]


def test_what_a_trace_cannot_know_is_an_error():
    with pytest.raises(ValueError, match="iterated"):
        fx.symbolic_trace(lambda x: sum(list(x)))
    with pytest.raises(NotImplementedError, match="top level"):
        fx.wrap("helper")
    with pytest.raises(RuntimeError, match="not pickled"):
        import pickle

        pickle.dumps(fx.symbolic_trace(lambda x: -x))


def test_proxies_record_functions_without_a_trace():
    graph = fx.Graph()
    tracer = fx.proxy.GraphAppendingTracer(graph)
    a, b = (fx.Proxy(graph.placeholder(n), tracer) for n in "ab")
    joined = F.leaky_relu(kiln.cat([a, kiln.tanh(b)], dim=1), 0.1)
    graph.output(kiln.add(joined, kiln.ones(1), alpha=2).node)
    graph.lint()
    x, y = kiln.randn(2, 3), kiln.randn(2, 2)
    want = F.leaky_relu(kiln.cat([x, y.tanh()], 1), 0.1) + 2
    kiln.testing.assert_close(fx.GraphModule(nn.Module(), graph)(x, y), want)
    assert x.add_(a).node.target is kiln.Tensor.add_


def test_a_graph_is_put_into_another():
    gm, inner = fx.symbolic_trace(lambda x: x + 1), fx.symbolic_trace(nn.Sequential(nn.ReLU()))
    out = gm.graph.output_node()
    with gm.graph.inserting_before(out):
        out.args = (
            nn.functional.softplus(
                fx.symbolic_trace(lambda x: F.relu(x))(fx.Proxy(out.args[0]))
            ).node,
        )
    gm.recompile()
    x = kiln.tensor([-3.0, 2.0])
    kiln.testing.assert_close(gm(x), F.softplus(inner(x + 1)))


def test_what_is_no_tensor_answers_for_functions():
    class Interval:
        def __init__(self, low, high):
            self.low, self.high = low, high

        @classmethod
        def __torch_function__(cls, fn, types, args=(), kwargs=None):
            assert types == (cls,)
            ends = ([getattr(a, end, a) for a in args] for end in ("low", "high"))
            return cls(*(fn(*given, **(kwargs or {})) for given in ends))

    r = kiln.exp(kiln.add(Interval(kiln.zeros(2), kiln.ones(2)), 1))
    kiln.testing.assert_close(r.low, kiln.ones(2).exp())
    kiln.testing.assert_close(r.high, (2 * kiln.ones(2)).exp())
