"""`kiln.draw`: everything is in the picture, and boxes lie beside or inside each other."""

from itertools import combinations
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kiln
from kiln import nn
from kiln.inspection.layout import Box, arrange


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.act, self.drop = nn.Linear(8, 8), nn.ReLU(inplace=True), nn.Dropout()

    def forward(self, x, scale):
        return self.drop(self.act(self.one(x))) * scale + x


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.blocks = nn.LazyLinear(8), nn.ModuleList([Block(), Block()])

    def forward(self, x, scale):
        h = self.first(x)
        for b in self.blocks:
            h = b(h, scale)
        return {"y": h, "z": h.sum()}


def texts(svg):
    return [e.text for e in ElementTree.fromstring(svg).iter() if e.tag.endswith("text")]


def well_laid(root):
    """No boxes overlap but those inside others, and no line goes down through a box."""
    for box in root.walk():
        for a in box.children:
            assert a.x >= box.x - 1e-6
            assert a.y >= box.y - 1e-6
            assert a.x + a.w <= box.x + box.w + 1e-6
            assert a.y + a.h <= box.y + box.h + 1e-6
        for a, b in combinations(box.children, 2):
            apart = a.x + a.w < b.x or b.x + b.w < a.x or a.y + a.h < b.y or b.y + b.h < a.y
            assert apart
        for x0, y0, turn, _, y1, _ in box.lines:
            assert y0 <= turn <= y1
            for a in box.children:
                assert not (a.x < x0 < a.x + a.w and y0 < a.y + a.h - 1e-6 and a.y + 1e-6 < turn)
                assert not (turn < a.y + a.h - 1e-6 and a.y + 1e-6 < y1)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 40), st.randoms(use_true_random=False))
def test_any_graph_of_groups_is_laid_out_without_overlaps(n, random):
    root = Box(["root"], "group")
    open_, nodes = [root], []
    for i in range(n):
        move = random.random()
        if move < 0.2:
            open_.append(Box([f"group {i}"], "group", open_[-1]))
        elif move < 0.4 and len(open_) > 1:
            open_.pop()
        box = Box([f"node {i}", "x" * random.randrange(20)], "op", open_[-1])
        box.reads |= dict.fromkeys(random.sample(nodes, min(len(nodes), random.randrange(4))))
        nodes.append(box)
    arrange(root)
    well_laid(root)
    arrows = sum(line[-1] for b in root.walk() for line in b.lines)
    assert arrows == sum(len(b.reads) for b in nodes)


def test_a_module(tmp_path):
    model = Model()
    svg = kiln.draw(model, tmp_path / "model.svg", [(2, 3), (8,)])
    assert (tmp_path / "model.svg").read_text(encoding="utf-8") == svg
    found = texts(svg)
    for text in ("Model", "input 0", "f32[2, 3]", "first: Linear", "0: Block", "1: Block", "f32[]", "sum", "output"):  # fmt: skip
        assert text in found
    for text in ("one: Linear", "act: ReLU", "drop: Dropout", "mul", "add"):
        assert found.count(text) == 2
    assert found.count("output") == 2
    assert svg.count("marker-end") == 1 + 2 * 7 + 1 + 2
    assert nn.parameter.is_lazy(model.first.weight)
    assert kiln.draw(model, inputs=[(2, 3), (8,)]) == svg
    shallow = texts(kiln.draw(model, inputs=[(2, 3), (8,)], depth=1))
    assert "0: Block" in shallow
    assert "one: Linear" not in shallow


def test_a_compiled_function():
    model = nn.Linear(4, 2)
    opt = kiln.optim.SGD(model.parameters(), lr=0.1)

    @kiln.compile
    def step(x):
        opt.zero_grad()
        model(x).square().mean().backward()
        opt.step()

    with pytest.raises(RuntimeError, match="not captured yet"):
        kiln.draw(step)
    step(kiln.ones(3, 4))
    found = texts(kiln.draw(step))
    for text in ("step", "argument 0", "f32[3, 4]", "lr", "weight", "linear_weight_grad", "into weight", "grad of bias"):  # fmt: skip
        assert text in found, found


def test_names_are_escaped():
    class Odd(nn.Module):
        def forward(self, x):
            return x + 1

    Odd.__name__ = "<Odd & more>"
    assert "<Odd & more>" in texts(kiln.draw(Odd(), inputs=(2,)))


def test_what_cannot_be_drawn():
    with pytest.raises(TypeError, match="expected a module"):
        kiln.draw(3)
    with pytest.raises(RuntimeError, match="needs inputs"):
        kiln.draw(nn.ReLU())
    with pytest.raises(ValueError, match="pictures are SVG"):
        kiln.draw(nn.ReLU(), "relu.png", (2,))


def test_a_compiled_module_is_drawn_as_module_or_as_captured():
    fast = kiln.compile(nn.Sequential(nn.Linear(4, 2), nn.ReLU()))
    assert "0: Linear" in texts(kiln.draw(fast, inputs=(3, 4)))
    with pytest.raises(RuntimeError, match="not captured yet"):
        kiln.draw(fast)
    fast(kiln.ones(3, 4))
    assert {"argument 0", "0.weight", "linear", "relu"} <= set(texts(kiln.draw(fast)))
