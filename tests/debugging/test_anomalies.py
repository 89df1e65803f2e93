"""NaN and infinity: the report names the layer, the op and the line, in eager mode and in compiled programs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from tests.turns import in_turn

import kiln
import kiln.nn.functional as F
from kiln import nn
from kiln.autograd import detect_anomaly
from kiln.debugging import NumericsError, check_numerics
from kiln.tensor import CAPTURING


class Poison(nn.Module):
    """Passes values on, or spoils them (`forward`) or their gradients (`backward`)."""

    def __init__(self) -> None:
        super().__init__()
        self.spoils = ""

    def forward(self, x: kiln.Tensor) -> kiln.Tensor:
        if self.spoils == "forward":
            return x + (-1 - x * x).log()  # spoilt
        if self.spoils == "backward":
            return x + (x * 0).sqrt() * 0  # spoilt
        return x


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm = nn.Embedding(7, 6), nn.LSTM(6, 5, batch_first=True)
        self.poison, self.head = Poison(), nn.Linear(5, 3)

    def forward(self, x: kiln.Tensor) -> kiln.Tensor:
        h, _ = self.lstm(self.embed(x))
        return self.head(self.poison(h)[:, -1])


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        one = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
        self.encoder, self.poison = nn.TransformerEncoder(one, 2), Poison()
        self.head = nn.Linear(8, 3)

    def forward(self, x: kiln.Tensor) -> kiln.Tensor:
        return self.head(self.poison(self.encoder(x)).mean(1))


MODELS: dict[str, tuple[Callable, Callable]] = {
    "mlp": (
        lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), Poison(), nn.LayerNorm(8), nn.Linear(8, 3)),
        lambda: kiln.randn(4, 6),
    ),
    "cnn": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), Poison(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 2), nn.Flatten(), nn.Linear(16, 3)
        ),
        lambda: kiln.randn(4, 1, 8, 8),
    ),
    "transformer": (Attending, lambda: kiln.randn(4, 3, 8)),
    "lstm": (Recurrent, lambda: kiln.randint(0, 7, (4, 5))),
}  # fmt: skip


def trained(name: str) -> tuple[nn.Module, Callable, kiln.Tensor, kiln.Tensor]:
    """A model, its training step, and a batch."""
    kiln.manual_seed(0)
    make, data = MODELS[name]
    model = make()
    opt = kiln.optim.SGD(model.parameters(), lr=0.1)

    def step(x: kiln.Tensor, y: kiln.Tensor) -> kiln.Tensor:
        opt.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        opt.step()
        return loss

    return model, step, data(), kiln.randint(0, 3, (4,))


def line_of(cls: type, text: str) -> str:
    lines, first = inspect.getsourcelines(cls)
    at = next(i for i, line in enumerate(lines) if text in line)
    return f"test_anomalies.py:{first + at} in forward"


@pytest.fixture(autouse=True)
def _no_capture_is_left() -> Iterator[None]:
    yield
    assert not CAPTURING


MODES = ["eager", "reference", "cpu"]


def made(step: Callable, mode: str) -> Callable:
    return step if mode == "eager" else kiln.compile(step, backend=mode)


@in_turn("mode", MODES[:2], name=MODELS)
def test_weights_of_any_layer(name: str, mode: str, full: bool) -> None:
    _spoil_weights(name, mode, 1 if full else 2)


def test_weights_of_any_layer_in_kernels(full: bool) -> None:
    _spoil_weights("mlp", "cpu", 1 if full else 2)


def _spoil_weights(name: str, mode: str, every: int) -> None:
    """Of each layer one weight, of every so manieth layer."""
    model, step, x, y = trained(name)
    run = made(step, mode)
    with check_numerics():
        run(x, y)
    first = {}
    for path, m in model.named_modules():
        for n, _ in m.named_parameters(recurse=False):
            if n.startswith(("weight", "in_")):
                first.setdefault(path, (m, n))
    for path, (m, n) in list(first.items())[::every]:
        before = {k: v.clone() for k, v in model.state_dict().items()}
        with kiln.no_grad():
            getattr(m, n)[slice(None) if isinstance(m, nn.Embedding) else 0] = kiln.nan
        with check_numerics(), pytest.raises(NumericsError) as e:
            run(x, y)
        said = str(e.value)
        # an attention's projections are read by functions of the layer that holds them
        assert e.value.layer == path.removesuffix(".out_proj"), said
        assert "test_anomalies.py" in e.value.place
        assert e.value.operation
        assert f"{path}.{n} f32" in said, said
        model.load_state_dict(before)


@in_turn("mode", MODES, name=MODELS)
def test_activations_and_gradients(name: str, mode: str) -> None:
    model, step, x, y = trained(name)
    path, poison = next((p, m) for p, m in model.named_modules() if isinstance(m, Poison))
    run = made(step, mode)
    run(x, y)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    poison.spoils = "forward"
    with check_numerics(), pytest.raises(NumericsError, match="log gives NaN in layer") as e:
        run(x, y)
    assert (e.value.layer, e.value.backward) == (path, False)
    assert e.value.place == line_of(Poison, "log()")
    poison.spoils = "backward"
    for watch in (check_numerics, detect_anomaly):
        with watch(), pytest.raises(NumericsError) as e:
            run(x, y)
        assert (e.value.layer, e.value.backward) == (path, True), str(e.value)
        assert e.value.place == line_of(Poison, "sqrt()"), str(e.value)
        assert "SqrtBackward0" in str(e.value)
    poison.spoils = ""
    with check_numerics():
        run(x, y)
    for k, v in model.state_dict().items():
        assert v.isfinite().all(), k
        assert v.shape == before[k].shape


def test_an_error_leaves_state_as_it_was() -> None:
    model, step, x, y = trained("mlp")
    run = kiln.compile(step)
    run(x, y)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    grads = [p.grad for p in model.parameters()]
    with check_numerics(), pytest.raises(NumericsError):
        run(x * kiln.nan, y)
    assert all(kiln.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(a is p.grad for a, p in zip(grads, model.parameters(), strict=True))
    run(x, y)
    assert all(v.isfinite().all() for v in model.state_dict().values())


def test_backward_outside_of_a_compiled_forward() -> None:
    model, _, x, _ = trained("mlp")
    model[2].spoils = "backward"
    out = kiln.compile(model)(x)
    with detect_anomaly(), pytest.raises(NumericsError, match="in the gradient of SqrtBackward0") as e:  # fmt: skip
        out.sum().backward()
    assert e.value.layer == "2"
    assert e.value.place == line_of(Poison, "sqrt()")


@pytest.mark.parametrize("mode", MODES)
def test_infinities_that_ops_make(mode: str) -> None:
    x = kiln.tensor([0.0, 1.0])
    f = made(lambda x: x.log() * 2, mode)
    with check_numerics(inf=False):
        f(x)
    with check_numerics(), pytest.raises(NumericsError, match="log gives inf"):
        f(x)

    def masked(x: kiln.Tensor) -> kiln.Tensor:
        return x.masked_fill(x > 0.5, -kiln.inf).softmax(0) + 0 * kiln.relu(x)

    with check_numerics():
        assert made(masked, mode)(x)[0] == 1


@pytest.mark.parametrize("mode", MODES)
def test_in_place_forms_and_bodies_of_loops(mode: str) -> None:
    def fill(x: kiln.Tensor) -> kiln.Tensor:
        y = x.clone()
        y.sqrt_()
        return y

    def loop(x: kiln.Tensor) -> kiln.Tensor:
        def body(c: kiln.Tensor, _: kiln.Tensor) -> tuple:
            return c - 1, c.log()  # here

        return kiln.scan(body, x, kiln.arange(4.0))[1]

    with check_numerics(), pytest.raises(NumericsError, match=r"sqrt_? gives NaN"):
        made(fill, mode)(kiln.tensor([-1.0]))
    with check_numerics(), pytest.raises(NumericsError, match=r"log gives (NaN|inf)") as e:
        made(loop, mode)(kiln.tensor(1.5))
    assert "in body" in e.value.place


def test_two_programs_of_equal_ops_have_lines_of_their_own() -> None:
    def first(x: kiln.Tensor) -> kiln.Tensor:
        return x.log()

    def second(x: kiln.Tensor) -> kiln.Tensor:
        return x.log()

    compiled = [kiln.compile(f, backend="reference") for f in (first, second)]
    for f, name in zip(compiled, ("first", "second"), strict=True):
        with check_numerics(), pytest.raises(NumericsError) as e:
            f(kiln.tensor([-1.0]))
        assert e.value.place.endswith(name)


def test_watching_changes_no_value() -> None:
    found = []
    for watched in (False, True):
        model, step, x, y = trained("cnn")
        run = kiln.compile(step)
        for _ in range(2):
            if watched:
                with check_numerics():
                    run(x, y)
            else:
                run(x, y)
        found.append([p.detach().numpy().copy() for p in model.parameters()])
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


class Spoiling(nn.Module):
    """Computes a NaN that nothing reads."""

    def forward(self, x: kiln.Tensor) -> kiln.Tensor:
        (x - 9.0).log()  # unread
        return x * 2


def bodies(part: Callable) -> dict[str, Callable]:
    def nested(x: kiln.Tensor) -> kiln.Tensor:
        return kiln.cond(x.sum() > 0, part, lambda x: x, (x,))

    return {
        "scan": lambda xs: kiln.scan(lambda c, x: (c + part(x), c), kiln.zeros(3), xs)[0],
        "cond": lambda xs: kiln.cond(xs.sum() > 0, part, lambda x: x, (xs,)),
        "while": lambda xs: kiln.while_loop(lambda i, x: i < 2, lambda i, x: (i + 1, part(x)), (kiln.tensor(0), xs))[1],
        "nested": lambda xs: kiln.scan(lambda c, x: (c + nested(x), c), kiln.zeros(3), xs)[0],
        "unread": lambda xs: (kiln.map(part, xs), xs)[1] * 3,
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["scan", "cond", "while", "nested", "unread"])
def test_what_nothing_reads_in_the_body_of_a_loop_or_a_branch(kind: str) -> None:
    model, xs = nn.ModuleDict({"spoiling": Spoiling()}), kiln.rand(2, 3)
    fns = [bodies(part)[kind] for part in (model["spoiling"], lambda x: (x - 9.0).log() + x)]
    model.forward = fns[0]
    with check_numerics(), pytest.raises(NumericsError, match="log gives NaN in layer spoiling") as e:  # fmt: skip
        kiln.compile(model)(xs)
    assert "unread" in str(e.value)
    assert e.value.layer == "spoiling"
    with check_numerics(), pytest.raises(NumericsError) as e:  # of equal nodes, on another line
        kiln.compile(fns[1])(xs)
    assert "lambda" in e.value.place


@pytest.mark.parametrize("kind", ["scan", "cond", "while", "nested"])
def test_bodies_in_order_and_their_gradients_are_left_in_peace(kind: str) -> None:
    xs = kiln.rand(2, 3, requires_grad=True)
    run = kiln.compile(bodies(lambda x: (x + 1).log().where(x > -1, x))[kind])
    for watch in (check_numerics, detect_anomaly):
        with watch():
            run(xs).sum().backward()
