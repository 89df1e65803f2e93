"""Values inside of compiled programs: watched while they run, and stepped through."""

from __future__ import annotations

import inspect
import io

import numpy as np
import pytest

import kiln
import kiln.nn.functional as F
from kiln import nn
from kiln.debugging import Seen, Stepper


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 6), nn.Tanh())
        self.head = nn.Linear(6, 3)

    def forward(self, x: kiln.Tensor) -> kiln.Tensor:
        hidden = self.body(x)
        doubled = hidden * 2  # over several lines
        return self.head(doubled)


@pytest.fixture(params=["reference", "cpu"])
def trained(request: pytest.FixtureRequest) -> tuple:
    kiln.manual_seed(0)
    model = Net()
    opt = kiln.optim.SGD(model.parameters(), lr=0.5)

    def step(x: kiln.Tensor, y: kiln.Tensor) -> kiln.Tensor:
        opt.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        opt.step()
        return loss

    x, y = kiln.randn(4, 5), kiln.randint(0, 3, (4,))
    return model, kiln.compile(step, backend=request.param), x, y


def close(a: kiln.Tensor, b: kiln.Tensor) -> None:
    np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-5, atol=1e-6)


def line_of(text: str) -> str:
    lines, first = inspect.getsourcelines(Net)
    return f"test_watching.py:{first + next(i for i, s in enumerate(lines) if text in s)}"


def test_values_by_layer_line_variable_op_and_input(trained: tuple, full: bool) -> None:
    model, run, x, y = trained
    run(x, y)
    with kiln.no_grad():
        hidden = model.body(x)
        out = model.head(hidden * 2)
        want = {
            "body": hidden, "body.0": model.body[0](x), line_of("hidden = "): hidden, "hidden": hidden, "doubled": hidden * 2,
            "head": out, "head.weight": model.head.weight.clone(), "arg0": x, "tanh": hidden,
            "loss": F.cross_entropy(out, y),
        }  # fmt: skip
    if not full:  # every other one
        want = dict(list(want.items())[run.backend == "cpu" :: 2]) | {"loss": want["loss"]}
    watches = {name: kiln.watch(run, name) for name in want}
    by_test = kiln.watch(run, lambda n: n.name == "linear")
    loss = run(x, y)
    for name, w in watches.items():
        (seen,) = w.values
        assert (seen.call, seen.name) == (1, name)
        close(seen.value, want[name])
        w.remove()
    assert [s.value.shape for s in by_test.values] == [(4, 6), (4, 3)]
    close(want["loss"], loss)
    assert run.captures == 1


def test_repeated_calls_every_so_many_and_callbacks(trained: tuple) -> None:
    _, run, x, y = trained
    seen: list[Seen] = []
    with kiln.watch(run, "loss", seen.append, every=3) as w:
        losses = [run(x, y) for _ in range(7)]
    run(x, y)
    assert w.calls == 7
    assert [s.call for s in seen] == [1, 4, 7]
    for s in seen:
        close(s.value, losses[s.call - 1])


def test_a_watch_changes_no_bit() -> None:
    found = []
    for watched in (False, True):
        kiln.manual_seed(1)
        model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2))
        opt = kiln.optim.Adam(model.parameters())

        @kiln.compile
        def step(x: kiln.Tensor) -> kiln.Tensor:
            opt.zero_grad()  # noqa: B023
            loss = model(x).square().sum()  # noqa: B023
            loss.backward()
            opt.step()  # noqa: B023
            return loss

        x = kiln.randn(3, 4)
        w = kiln.watch(step, "1") if watched else None
        found.append([step(x).item() for _ in range(4)])
        assert w is None or len({s.value.numpy().tobytes() for s in w.values}) == 4
    assert found[0] == found[1]


def test_gradients(trained: tuple) -> None:
    model, run, x, y = trained
    with kiln.watch(run, "head", phase="backward") as w:
        run(x, y)
    shapes = {s.value.shape for s in w.values}
    assert model.head.weight.shape in shapes
    grad = next(s for s in w.values if s.value.shape == (3, 6))
    close(grad.value, model.head.weight.grad)


def test_modules_and_what_is_not_there(trained: tuple) -> None:
    model, run, x, y = trained
    fast = kiln.compile(model, backend="reference")
    with kiln.watch(fast, "body") as w:
        fast(x)
    close(w.values[0].value, model.body(x))
    with pytest.raises(KeyError, match="no value of this name"), kiln.watch(run, "decoder"):
        run(x, y)
    run(x, y)
    with pytest.raises(TypeError, match="compiled function"):
        kiln.watch(model, "body")
    with pytest.raises(ValueError, match="phase"):
        kiln.watch(run, "body", phase="sideways")


def test_stepping(trained: tuple) -> None:
    model, run, x, y = trained
    run(x, y)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    s = Stepper(run, x, y)
    at = s.until(lambda s: s.op == "tanh")
    assert at is not None
    assert at.layer == "body.1"
    close(at.value, model.body(x))
    close(s.value("body.0"), model.body[0](x))
    close(s.value("%0"), x)
    with pytest.raises(KeyError, match="no value of this name has been computed"):
        s.value("head")
    list(s)
    assert s.done
    assert s.step() is None
    loss = s.value("loss")
    assert all(kiln.equal(v, before[k]) for k, v in model.state_dict().items())
    close(loss, run(x, y))


def test_the_prompt(trained: tuple) -> None:
    _, run, x, y = trained
    s = Stepper(run, x, y)
    commands = "s\nl\nb head\nc\nw\na\np body\np decoder\nb nan\nc\nfly\nhelp s\nhelp\ncl\nb\nq\n"
    s.stdin, s.stdout, s.use_rawinput = io.StringIO(commands), (out := io.StringIO()), False
    s.interact()
    said = out.getvalue()
    assert "linear" in said.splitlines()[1]
    assert "-> %" in said
    assert "[head test_watching.py" in said
    assert "return self.head(doubled)" in said
    assert "head.weight" in said
    assert "tensor(" in said
    assert "no value of this name has been computed" in said
    assert "breakpoints: head, nan" in said
    assert "no such command" in said
    assert said.count("s: compute the next node.") == 2
    assert "cl: clear all breakpoints." in said
    assert said.endswith("breakpoints: \n(kiln) ")


def test_a_breakpoint_on_nan() -> None:
    run = kiln.compile(lambda x: (x.log() * 2).exp(), backend="reference")
    s = Stepper(run, kiln.tensor([-1.0]))
    s.stdin, s.stdout, s.use_rawinput = io.StringIO("b nan\nc\n"), (out := io.StringIO()), False
    s.interact()
    assert "log(%0)" in out.getvalue()
    assert "1 NaN" in out.getvalue()
