"""Exported programs and scripted modules in files: they run without their code, and files hold none."""

import io

import pytest

import kiln
import kiln.nn.functional as F
from kiln import nn
from kiln.export import Dim, ExportedProgram


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift, self.act, self.scale = nn.Linear(3, 4), F.gelu, kiln.tensor([2.0])
        self.mix = nn.ModuleList([nn.Sequential(nn.Conv1d(4, 4, 3, padding=1), nn.BatchNorm1d(4))])
        self.register_buffer("shift", kiln.ones(4))

    def forward(self, x, extra=None, *, times=1.0):
        rows, width = x.shape
        h = self.act(self.lift(x)) + self.shift * self.scale
        if width > 2:  # a fact of the program
            h = h + kiln.arange(4, dtype=h.dtype)
        for m in self.mix:
            h = h + m(h.unsqueeze(-1).expand(rows, 4, 2)).sum(-1)
        h = F.dropout(h, 0.5, training=self.training)
        return {
            "out": h.reshape(rows * 2, 2).sum(1) + kiln.zeros(rows * 2),
            "rest": (h.mean() * times, width),
        }


@pytest.fixture
def net():
    kiln.manual_seed(0)
    return Net().eval()


def through_file(ep: ExportedProgram) -> ExportedProgram:
    f = io.BytesIO()
    kiln.export.save(ep, f, extra_files={"note": "kept"})
    f.seek(0)
    extra = {"note": ""}
    out = kiln.export.load(f, extra_files=extra)
    assert extra["note"] == "kept"
    return out


def test_an_exported_program_is_the_module_without_its_code(net):
    x = kiln.randn(2, 3)
    expected = net(x)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    ep = kiln.export.export(net, (x,))
    assert all(v.equal(before[k]) for k, v in net.state_dict().items())
    for program in (ep, through_file(ep)):
        got = program.module()(x)
        assert got["out"].equal(expected["out"])
        assert got["rest"][0].equal(expected["rest"][0])
        assert got["rest"][1] == 3
        assert list(program.state_dict) == list(net.state_dict())
        s = program.graph_signature
        assert s.parameters == tuple(n for n, _ in net.named_parameters())
        assert s.inputs_to_buffers["b_shift"] == "shift"
        assert s.user_inputs == ("x",)
        assert s.user_outputs[2] == 3
        assert len(program.constants) == 3
        with pytest.raises(AssertionError, match=r"x.size\(\)\[0\] == 2"):
            program.module()(kiln.randn(5, 3))
        with pytest.raises(RuntimeError, match=r"module\(\)"):
            program(x)
        with pytest.raises(NotImplementedError, match="train"):
            program.module().train()
        assert "self.lift(x)" in str(program)


def test_exported_programs_are_trained_and_compiled(net):
    x = kiln.randn(2, 3)
    ep = kiln.export.export(net, (x,))
    module = ep.module()
    net(x)["out"].sum().backward()
    expected = net.lift.weight.grad.clone()
    net.lift.weight.grad = None
    module(x)["out"].sum().backward()
    assert module.get_parameter("lift.weight") is net.lift.weight  # the module's own, as in PyTorch
    assert net.lift.weight.grad.allclose(expected)
    assert kiln.compile(module)(x)["out"].allclose(net(x)["out"], atol=1e-6)


def test_sizes_that_may_differ(net):
    batch = Dim("batch", min=1, max=8)
    ep = kiln.export.export(net, (kiln.randn(2, 3),), dynamic_shapes={"x": {0: batch}})
    assert str(ep.range_constraints) == "{'batch': VR[1, 8]}"
    for program in (ep, through_file(ep)):
        for n in (1, 5, 8):
            x = kiln.randn(n, 3)
            assert program.module()(x)["out"].equal(net(x)["out"])
        with pytest.raises(AssertionError, match="<= 8"):
            program.module()(kiln.randn(9, 3))
        with pytest.raises(AssertionError, match=r"\[1\] == 3"):
            program.module()(kiln.randn(3, 4))
    with pytest.raises(RuntimeError, match="dynamic"):  # the layer's weight has that size
        kiln.export.export(net, (kiln.randn(2, 3),), dynamic_shapes=({1: Dim("width")},))
    auto = kiln.export.export(
        net, (kiln.randn(2, 3),), dynamic_shapes=({0: Dim.AUTO, 1: Dim.AUTO},)
    )
    with pytest.raises(AssertionError):
        auto.module()(kiln.randn(4, 3))  # the other size is firm, and so is what was asked with it


def test_sizes_that_follow_from_others():
    class Pair(nn.Module):
        def forward(self, x, ys):
            return x[: ys["y"].shape[0]] * 2 + ys["y"]

    n = Dim("n", max=50)
    ep = kiln.export.export(
        Pair(), (kiln.ones(6), {"y": kiln.ones(3)}), dynamic_shapes=({0: 2 * n}, {"y": {0: n}})
    )
    assert ep.module()(kiln.ones(10), {"y": kiln.ones(5)}).tolist() == [3] * 5
    with pytest.raises(AssertionError, match="Guard failed"):
        ep.module()(kiln.ones(10), {"y": kiln.ones(4)})
    with pytest.raises(RuntimeError, match="n"):
        kiln.export.export(
            Pair(), (kiln.ones(7), {"y": kiln.ones(3)}), dynamic_shapes=({0: 2 * n}, {"y": {0: n}})
        )


def test_branches_on_dynamic_sizes_are_guarded_and_on_values_refused():
    class Long(nn.Module):
        def forward(self, x):
            return x + 1 if x.shape[0] > 4 else x - 1

    ep = kiln.export.export(Long(), (kiln.ones(6),), dynamic_shapes={"x": {0: Dim("n")}})
    assert ep.module()(kiln.ones(9)).tolist() == [2] * 9
    with pytest.raises(AssertionError, match="Guard failed"):
        ep.module()(kiln.ones(2))

    class Sign(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(RuntimeError, match="data-dependent"):
        kiln.export.export(Sign(), (kiln.ones(2),))


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda m, x: kiln.export.export(abs, (x,)), ValueError, "Module"),
        (lambda m, x: kiln.export.export(m, x), RuntimeError, "tuple"),
        (
            lambda m, x: kiln.export.export(m, (x,), dynamic_shapes={"z": None}),
            RuntimeError,
            "arg names",
        ),
        (
            lambda m, x: kiln.export.export(m, (x,), dynamic_shapes=({0: "x"},)),
            RuntimeError,
            "index 0",
        ),
        (
            lambda m, x: kiln.export.export(m, (x,), dynamic_shapes=({0: Dim("b", min=3)},)),
            RuntimeError,
            "range",
        ),
        (lambda m, x: Dim("b", min=9, max=2), AssertionError, "inconsistent"),
        (lambda m, x: Dim("b c"), AssertionError, "identifier"),
        (lambda m, x: kiln.export.draft_export(m), NotImplementedError, "draft_export"),
    ],
)
def test_what_is_no_export(net, call, error, says):
    with pytest.raises(error, match=says):
        call(net, kiln.randn(2, 3))


def test_draws_and_gradients_off_stay_as_they_are():
    class Noise(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(kiln.ones(3))

        def forward(self, x):
            with kiln.no_grad():
                still = self.weight * 2
            return x + still + kiln.rand(3)

    m = Noise()
    x = kiln.zeros(3, requires_grad=True)
    kiln.manual_seed(5)
    expected = m(x)
    kiln.manual_seed(5)
    program = kiln.export.export(m, (x,)).module()
    got = program(x)
    assert got.equal(expected)
    assert not program(x).equal(got)
    got.sum().backward()
    assert m.weight.grad is None


# ---------------------------------------------------------------- scripted modules in files


def test_a_scripted_module_is_saved_without_an_example(tmp_path):
    kiln.manual_seed(0)

    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.rnn = nn.Embedding(10, 8), nn.LSTM(8, 8, batch_first=True)
            self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
            self.place = nn.Parameter(kiln.randn(1, 16, 8))

        def forward(self, i):
            x = self.embed(i) + self.place[:, : i.shape[1]]
            y, _ = self.attend(x, x, x)
            out, _ = self.rnn(F.dropout(y, 0.5, self.training))
            return out.mean(1)

    m = Words()
    kiln.jit.save(kiln.jit.script(m), tmp_path / "m.pt")
    loaded = kiln.jit.load(tmp_path / "m.pt")
    assert isinstance(loaded, kiln.jit.ScriptModule)
    assert list(loaded.state_dict()) == list(m.state_dict())
    for shape in ((2, 5), (3, 7)):
        i = kiln.randint(0, 10, shape)
        for mode in (True, False):
            kiln.manual_seed(1)
            expected = m.train(mode)(i)
            kiln.manual_seed(1)
            assert loaded.train(mode)(i).equal(expected)
    loaded(i).sum().backward()
    assert loaded.place.grad is not None
    loaded.save(tmp_path / "again.pt")
    assert kiln.jit.load(tmp_path / "again.pt").eval()(i).equal(expected)


def test_scripted_functions_and_scripted_parts(tmp_path):
    @kiln.jit.script
    def f(x, n: int = 2):
        return kiln.relu(x) * n + kiln.ones(3)

    f.save(tmp_path / "f.pt")
    g = kiln.jit.load(tmp_path / "f.pt")
    assert g(kiln.ones(3)).tolist() == [3, 3, 3]
    assert g(kiln.ones(3), n=5).tolist() == [6, 6, 6]
    part = kiln.jit.script(nn.Sequential(kiln.jit.script(nn.Linear(3, 3)), nn.ReLU()))
    part.save(tmp_path / "p.pt")
    assert kiln.jit.load(tmp_path / "p.pt")(kiln.ones(3)).equal(part(kiln.ones(3)))
    with pytest.raises(RuntimeError, match=r"trace it with an example"):
        kiln.jit.script(lambda x: x if x.sum() > 0 else -x).save(tmp_path / "b.pt")
    with pytest.raises(RuntimeError, match=r"code of|no layer|hooks"):
        hooked = nn.Sequential(nn.Linear(3, 3))
        hooked[0].register_forward_hook(lambda *_: None)
        kiln.jit.script(hooked).save(tmp_path / "h.pt")


@pytest.mark.parametrize(
    "node",
    [
        ["call_function", "a", "torch.from_file", {"tuple": ["/etc/passwd"]}, {"dict": []}, {}],
        ["call_function", "a", "os.system", {"tuple": ["true"]}, {"dict": []}, {}],
        ["call_function", "a", "getattr", {"tuple": [{"node": 0}, "__class__"]}, {"dict": []}, {}],
        ["call_function", "a", "getattr", {"tuple": [{"node": 0}, {"node": 0}]}, {"dict": []}, {}],
        ["call_method", "a", "numpy", {"tuple": [{"node": 0}]}, {"dict": []}, {}],
        ["call_method", "a", "__reduce__", {"tuple": [{"node": 0}]}, {"dict": []}, {}],
        ["call_module", "a", "training", {"tuple": []}, {"dict": []}, {}],
        ["get_attr", "a", "__class__", {"tuple": []}, {"dict": []}, {}],
        ["call_function", "a; import os", "torch.relu", {"tuple": [{"node": 0}]}, {"dict": []}, {}],
        ["call_function", "a", "torch.relu", {"tuple": [{"node": 7}]}, {"dict": []}, {}],
        ["run", "a", "x", {"tuple": []}, {"dict": []}, {}],
        ["call_function"],
    ],
)
def test_files_can_name_nothing_but_tensors_functions(node):
    nodes = [["placeholder", "x", "x", {"tuple": []}, {"dict": []}, {}], node]
    content = {
        "format": "kiln.jit.script/1",
        "root": nn.Module(),
        "training": nodes,
        "evaluation": None,
        "extra": {},
    }
    f = io.BytesIO()
    kiln.save(content, f, format="torch")
    f.seek(0)
    with pytest.raises(RuntimeError, match=r"jit.load"):
        kiln.jit.load(f)


def test_layers_in_files_bring_no_functions_of_their_own(tmp_path):
    for change in (
        lambda m: object.__setattr__(m[0], "forward", kiln.relu),
        lambda m: m[0]._forward_hooks.update({0: kiln.save}),
        lambda m: object.__setattr__(m[0], "extra", kiln.save),
    ):
        layers = nn.Module()
        layers.add_module("m", nn.Sequential(nn.Linear(2, 2)))
        change(layers.m)
        f = io.BytesIO()
        content = {
            "format": "kiln.jit.script/1",
            "root": layers,
            "training": [],
            "evaluation": [],
            "extra": {},
        }
        kiln.save(content, f, format="torch")
        f.seek(0)
        with pytest.raises(RuntimeError, match=r"m\.0"):
            kiln.jit.load(f)
