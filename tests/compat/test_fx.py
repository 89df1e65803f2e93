"""Programs as Graphs of Python calls: tracing, changing and running them."""

from __future__ import annotations

import copy
import math
import operator

import pytest

import kiln
import kiln.nn.functional as F
from kiln import fx, nn
from kiln.fx.experimental.optimization import fuse, remove_dropout
from kiln.fx.passes.infra.pass_base import PassBase, PassResult
from kiln.fx.passes.infra.pass_manager import PassManager, this_before_that_pass_constraint
from kiln.fx.passes.split_module import split_module
from kiln.fx.passes.tools_common import legalize_graph
from kiln.fx.subgraph_rewriter import replace_pattern_with_filters
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


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2)
        self.weight = nn.Parameter(kiln.ones(2))
        self.layers = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))

    def forward(self, x, scale=None):
        x = self.bn(self.conv(x)).relu().mean((2, 3)) + self.weight * 2
        a, b = x.chunk(2, 1)
        x = -self.layers(kiln.cat([a, b], dim=1))
        x += 1
        return {"y": x, "n": x.shape[0]}


def test_graphs_are_written_as_pytorch_writes_them():
    gm = fx.symbolic_trace(Block())
    assert str(gm.graph).splitlines() == [
        "graph():",
        "    %x : [num_users=1] = placeholder[target=x]",
        "    %scale : [num_users=0] = placeholder[target=scale](default=None)",
        "    %conv : [num_users=1] = call_module[target=conv](args = (%x,), kwargs = {})",
        "    %bn : [num_users=1] = call_module[target=bn](args = (%conv,), kwargs = {})",
        "    %relu : [num_users=1] = call_method[target=relu](args = (%bn,), kwargs = {})",
        "    %mean : [num_users=1] = call_method[target=mean](args = (%relu, (2, 3)), kwargs = {})",
        "    %weight : [num_users=1] = get_attr[target=weight]",
        "    %mul : [num_users=1] = call_function[target=operator.mul](args = (%weight, 2), kwargs = {})",
        "    %add : [num_users=1] = call_function[target=operator.add](args = (%mean, %mul), kwargs = {})",
        "    %chunk : [num_users=2] = call_method[target=chunk](args = (%add, 2, 1), kwargs = {})",
        "    %getitem : [num_users=1] = call_function[target=operator.getitem](args = (%chunk, 0), kwargs = {})",
        "    %getitem_1 : [num_users=1] = call_function[target=operator.getitem](args = (%chunk, 1), kwargs = {})",
        "    %cat : [num_users=1] = call_function[target=kiln.cat](args = ([%getitem, %getitem_1],), kwargs = {dim: 1})",
        "    %layers_0 : [num_users=1] = call_module[target=layers.0](args = (%cat,), kwargs = {})",
        "    %layers_1 : [num_users=1] = call_module[target=layers.1](args = (%layers_0,), kwargs = {})",
        "    %neg : [num_users=1] = call_function[target=operator.neg](args = (%layers_1,), kwargs = {})",
        *str(gm.graph).splitlines()[17:],
    ]
    lines = gm.code.split("\n")
    assert lines[:4] == ["", "", "", "def forward(self, x, scale = None):"]
    for line in (
        "    conv = self.conv(x);  x = None", "    add = mean + mul;  mean = mul = None", "    getitem_1 = chunk[1];  chunk = None",
        "    cat = kiln.cat([getitem, getitem_1], dim = 1);  getitem = getitem_1 = None",
        '    layers_0 = getattr(self.layers, "0")(cat);  cat = None', "    neg = -layers_1;  layers_1 = None",
    ):  # fmt: skip
        assert line in lines
    assert lines[-1] == "    "


def test_values_of_all_kinds_are_written():
    def f(x):
        return (
            x.to(kiln.float64).clamp(max=float("inf")),
            kiln.zeros(2, device=kiln.device("cpu")),
            len(x.shape),
        )

    gm = fx.symbolic_trace(f)
    assert gm(kiln.ones(2))[0].dtype is kiln.float64
    assert "x.to(kiln.float64)" in gm.code
    assert "max = inf" in gm.code


def test_passes_run_until_nothing_changes():
    class Halve(PassBase):
        def call(self, graph_module):
            found = graph_module.graph.find_nodes(op="call_function", target=kiln.relu)
            for n in found:
                n.target = kiln.tanh
            graph_module.recompile()
            return PassResult(graph_module, bool(found))

    gm = fx.symbolic_trace(lambda x: kiln.relu(x))
    result = PassManager([Halve()], steps=3)(gm)
    assert result.modified
    assert result.graph_module(kiln.ones(1)).item() == pytest.approx(0.7616, abs=1e-4)
    with pytest.raises(RuntimeError, match="forbidden order"):
        PassManager([max, min], [this_before_that_pass_constraint(min, max)])(gm)


def test_a_module_is_cut_into_parts():
    net = Block().eval()
    gm = fx.symbolic_trace(net)
    names = {}
    cut = split_module(gm, net, lambda n: 0 if n.name in ("conv", "bn", "relu") else 1, names)
    x = kiln.rand(1, 1, 5, 5)
    assert kiln.equal(cut(x)["y"], net(x)["y"])
    assert [n for n, _ in cut.named_children()] == ["submod_0", "submod_1"]
    assert names["submod_0.conv"] == "conv"


def test_nodes_are_put_in_order():
    gm = fx.symbolic_trace(lambda x: kiln.sin(x) + kiln.cos(x))
    nodes = list(gm.graph.nodes)
    nodes[0].prepend(nodes[2])  # reads what stands behind it
    with pytest.raises(RuntimeError, match="used before"):
        gm.graph.lint()
    legalize_graph(gm).graph.lint()
    assert gm(kiln.zeros(1)).item() == 1


def test_models_are_fused_for_inference():
    net = Block().eval()
    net(kiln.rand(2, 1, 5, 5))
    fused = remove_dropout(fuse(net))
    x = kiln.rand(1, 1, 5, 5)
    assert kiln.allclose(fused(x)["y"], net(x)["y"], atol=1e-6)
    kinds = {type(m) for m in fused.modules()}
    assert nn.BatchNorm2d not in kinds
    assert nn.Dropout not in kinds


def test_patterns_are_replaced_where_filters_say_so():
    gm = fx.symbolic_trace(lambda x, y: kiln.neg(x) + kiln.neg(y))
    keep = lambda match, graph, pattern: match.anchor.args[0].name == "x"  # noqa: E731
    found = replace_pattern_with_filters(gm, lambda a: kiln.neg(a), lambda a: kiln.exp(a), [keep])
    assert [n.target for m in found for n in m.replacements] == [kiln.exp]
    assert len(gm.graph.find_nodes(op="call_function", target=kiln.neg)) == 1


def test_functions_record_proxies_of_a_graph_that_nobody_traces():
    graph = fx.Graph()
    x, y = (fx.Proxy(graph.placeholder(n)) for n in "xy")
    a, b = kiln.broadcast_tensors(x, y)[0], kiln.matmul(x, y)
    graph.output((a.node, b.node))
    module = fx.GraphModule(kiln.nn.Module(), graph)
    first, second = module(kiln.ones(2, 2), kiln.ones(2))
    assert first.shape == (2, 2)
    assert second.tolist() == [2, 2]


def test_a_sequence_of_operands_is_recorded_as_a_call_with_each():
    def product(x, y):
        kiln._assert(x.shape[0] == 2, "two rows")
        return kiln.einsum("ij,jk->ik", (x, y))

    graph = fx.Graph()
    x, y = (fx.Proxy(graph.placeholder(n)) for n in "xy")
    product(x, y)
    for made in (graph, fx.symbolic_trace(product).graph):
        assert [len(n.args) for n in made.nodes if n.target is kiln.einsum] == [3]
        assert [n.target for n in made.nodes].count(kiln._assert) == 1
