"""Nested values: `kiln.utils._pytree` beside PyTorch's, and registered classes as arguments of compiled functions."""

from collections import OrderedDict, defaultdict, deque
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest

import kiln
from kiln.utils import _pytree as pytree


class Point(NamedTuple):
    x: Any
    y: Any


@dataclass
class Data:
    a: Any
    b: Any


class Pair:
    def __init__(self, a, b, note):
        self.a, self.b, self.note = a, b, note


TREES = [
    1, None, (), [], {}, [1, [2, (3, {})]], {"b": 1, "a": [2]}, Point(1, (2, 3)), deque([1, [2]], 5), OrderedDict(q=1, p=[2]),
    defaultdict(list, {"k": [1]}), Data(1, 2), [None, "text", {1: 2}],
]  # fmt: skip


@pytest.fixture
def pair():
    pytree.register_pytree_node(
        Pair, lambda p: ([p.a, p.b], p.note), lambda c, note: Pair(*c, note),
        flatten_with_keys_fn=lambda p: ([(pytree.GetAttrKey("a"), p.a), (pytree.GetAttrKey("b"), p.b)], p.note),
        serialized_type_name="tests.Pair",
    )  # fmt: skip
    yield Pair
    pytree._deregister_pytree_node(Pair)


@pytest.mark.parametrize("tree", TREES, ids=str)
def test_apart_and_together(tree):
    leaves, spec = pytree.tree_flatten(tree)
    again = pytree.tree_unflatten(leaves, spec)
    assert again == tree
    assert type(again) is type(tree)
    assert pytree.tree_structure(again) == spec
    assert hash(pytree.tree_structure(again)) == hash(spec)
    assert pytree.tree_map(lambda a, b: (a, b), tree, tree) is not None
    assert [pytree.key_get(tree, path) for path, _ in pytree.tree_leaves_with_path(tree)] == leaves


@pytest.mark.peers
@pytest.mark.parametrize("tree", TREES, ids=str)
def test_as_in_pytorch(tree):
    theirs = pytest.importorskip(
        "torch.utils._pytree", reason="PyTorch is not installed: extra [peers]"
    )
    leaves, spec = pytree.tree_flatten(tree)
    their_leaves, their_spec = theirs.tree_flatten(tree)
    assert leaves == their_leaves
    assert repr(spec) == repr(their_spec)
    for fact in ("num_leaves", "num_nodes", "num_children", "type", "context"):
        assert getattr(spec, fact) == getattr(their_spec, fact)
    assert pytree.treespec_pprint(spec) == theirs.treespec_pprint(their_spec)
    paths, _ = pytree.tree_flatten_with_path(tree)
    assert [pytree.keystr(p) for p, _ in paths] == [
        theirs.keystr(p) for p, _ in theirs.tree_flatten_with_path(tree)[0]
    ]
    if not isinstance(tree, Point | defaultdict):
        assert pytree.treespec_dumps(spec) == theirs.treespec_dumps(their_spec)
        assert pytree.treespec_loads(theirs.treespec_dumps(their_spec)) == spec


@pytest.mark.peers
@pytest.mark.parametrize(
    "rest", [[1], (1, 2), {"a": 1}, [1, [2, 3]], [1, {"y": 2, "x": 3}], [1, {"x": 2}], [1, OrderedDict(y=1, x=2)]], ids=str
)  # fmt: skip
def test_trees_that_go_together(rest):
    theirs = pytest.importorskip(
        "torch.utils._pytree", reason="PyTorch is not installed: extra [peers]"
    )
    tree = [1, {"x": 2, "y": 3}]
    try:
        expected = theirs.tree_map(lambda a, b: (a, b), tree, rest)
    except ValueError as e:
        with pytest.raises(ValueError, match=str(e).split(";")[0]):
            pytree.tree_map(lambda a, b: (a, b), tree, rest)
    else:
        assert pytree.tree_map(lambda a, b: (a, b), tree, rest) == expected
    spec, their_spec = pytree.tree_structure(tree), theirs.tree_structure(tree)
    assert pytree._broadcast_to_and_flatten(rest, spec) == theirs._broadcast_to_and_flatten(
        rest, their_spec
    )


@pytest.mark.peers
def test_names_of_pytorch():
    theirs = pytest.importorskip(
        "torch.utils._pytree", reason="PyTorch is not installed: extra [peers]"
    )
    missing = [n for n in theirs.__all__ if not hasattr(pytree, n)]
    assert not missing


def test_maps():
    tree = [1, "a", (2.0, {"k": 3})]
    assert pytree.tree_map_only(int, lambda x: -x, tree) == [-1, "a", (2.0, {"k": -3})]
    assert pytree.tree_map_only((int, float), str, tree) == ["1", "a", ("2.0", {"k": "3"})]
    assert pytree.tree_map_only(lambda x: x == "a", str.upper, tree) == [1, "A", (2.0, {"k": 3})]
    seen = []
    assert pytree.tree_map_(seen.append, tree) is tree
    assert seen == [1, "a", 2.0, 3] == list(pytree.tree_iter(tree))
    assert pytree.tree_all(bool, tree)
    assert pytree.tree_any_only(int, lambda x: x > 2, tree)
    assert not pytree.tree_all_only(int, lambda x: x > 2, tree)
    assert not pytree.tree_any(lambda x: x is None, tree)
    assert pytree.tree_leaves(tree, is_leaf=lambda x: isinstance(x, tuple)) == [
        1,
        "a",
        (2.0, {"k": 3}),
    ]
    named = pytree.tree_map_with_path(
        lambda path, x, y: (pytree.keystr(path), x, y), {"a": [1]}, {"a": [2]}
    )
    assert named == {"a": [("[0]".join(["['a']", ""]), 1, 2)]}


def test_registered_classes(pair):
    tree = {"p": pair(1, [2, 3], "note")}
    leaves, spec = pytree.tree_flatten(tree)
    assert leaves == [1, 2, 3]
    assert pytree.tree_unflatten([4, 5, 6], spec)["p"].b == [5, 6]
    assert [pytree.keystr(p) for p, _ in pytree.tree_leaves_with_path(tree)] == [
        "['p'].a",
        "['p'].b[0]",
        "['p'].b[1]",
    ]
    assert pytree.treespec_loads(pytree.treespec_dumps(spec)) == spec
    assert spec != pytree.tree_structure({"p": pair(1, [2, 3], "other")})
    with pytest.raises(ValueError, match="already registered"):
        pytree.register_pytree_node(pair, None, None)

    @kiln.compile
    def double(p):
        return Pair(p.a * 2, p.b, p.note)

    out = double(pair(kiln.ones(2), 3, ["unhashable"]))
    assert isinstance(out, pair)
    assert out.a.tolist() == [2, 2]
    assert double(pair(kiln.zeros(2), 3, ["unhashable"])).a.tolist() == [0, 0]
    assert double(pair(kiln.ones(2), 3, ["another"])).note == ["another"]
    assert kiln.func.grad(lambda p: (p.a * p.b).sum())(
        pair(kiln.ones(2), kiln.full((2,), 3.0), "")
    ).a.tolist() == [3, 3]


def test_registered_dataclasses_and_constants():
    @dataclass
    class Both:
        a: Any
        b: Any = None

    @dataclass(frozen=True)
    class Fact:
        name: str

    pytree.register_dataclass(Both)
    pytree.register_constant(Fact)
    try:
        leaves, spec = pytree.tree_flatten([Both(1, [2]), Both(3), Fact("f")])
        assert leaves == [1, 2, 3]
        assert spec.unflatten([4, 5, 6]) == [Both(4, [5]), Both(6), Fact("f")]
        assert spec != pytree.tree_structure([Both(1, [2]), Both(3), Fact("g")])
    finally:
        pytree._deregister_pytree_node(Both)
        pytree._deregister_pytree_node(Fact)
    with pytest.raises(TypeError, match="__hash__"):
        pytree.register_constant(Data)


def test_errors():
    spec = pytree.tree_structure([1, 2])
    with pytest.raises(ValueError, match="length 1 but the spec"):
        spec.unflatten([1])
    with pytest.raises(TypeError, match="TreeSpec"):
        pytree.tree_unflatten([1], [1])
    with pytest.raises(NotImplementedError, match="Point"):
        pytree.treespec_dumps(pytree.tree_structure(Point(1, 2)))
    with pytest.raises(NotImplementedError, match=r"os\.system"):
        pytree.treespec_loads('[1, {"type": "os.system", "context": "null", "children_spec": []}]')


def test_supported_nodes_take_containers_apart_and_put_them_together():
    class pair(NamedTuple):
        a: int
        b: int

    for tree in (
        [1, 2],
        (1, 2),
        {"a": 1},
        OrderedDict(b=2, a=1),
        defaultdict(list, {1: 2}),
        deque([1, 2], 3),
        pair(1, 2),
    ):
        node = pytree.SUPPORTED_NODES[pytree._get_node_type(tree)]
        values, context = node.flatten_fn(tree)
        back = node.unflatten_fn(values, context)
        assert type(back) is type(tree)
        assert back == tree
        assert [v for _, v in node.flatten_with_keys_fn(tree)[0]] == values
    assert pytree._get_node_type(3) not in pytree.SUPPORTED_NODES
    assert pytree._dict_flatten({"a": 1}) == ([1], ["a"])
