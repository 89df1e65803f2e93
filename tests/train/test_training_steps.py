"""What is computed for a batch: weights, several inputs and outputs, custom steps, metrics, errors."""

import numpy as np
import pytest
from tests.turns import in_turn

import kiln
import kiln.nn.functional as F
from kiln import nn
from kiln.train import Callback, Trainer, TrainingModule, freeze

R = np.random.default_rng(0)
X = R.normal(size=(40, 4)).astype(np.float32)
Y = (X[:, 0] + X[:, 1] > 0).astype(np.int64)
BOTH = pytest.mark.parametrize("compiled", [False, True])


def net(out=2):
    kiln.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, out))


@in_turn("compiled", [False, True])
def test_class_weights(compiled):
    weights = {0: 1.0, 1: 5.0}
    m = net()
    t = Trainer(m, compile=compiled)
    with kiln.no_grad():
        each = F.cross_entropy(m(kiln.tensor(X)), kiln.tensor(Y), reduction="none").numpy()
    h = t.fit((X, Y), batch_size=40, verbose=0, class_weight=weights)
    assert h["loss"][0] == pytest.approx((each * np.where(Y == 1, 5.0, 1.0)).mean(), rel=1e-5)
    again = t.fit((X, Y), batch_size=40, verbose=0)
    assert again["loss"][1] < 0.6 * again["loss"][0]  # without weights


@in_turn("compiled", [False, True], loss=["cross_entropy", nn.CrossEntropyLoss()])
def test_sample_weights_over_uneven_batches(compiled, loss):
    w = R.random(40).astype(np.float32)
    m = net()
    t = Trainer(m, loss=loss, compile=compiled)
    with kiln.no_grad():
        each = F.cross_entropy(m(kiln.tensor(X)), kiln.tensor(Y), reduction="none").numpy()
    for size in (40, 16):
        assert t.evaluate((X, Y), size, sample_weight=w)["loss"] == pytest.approx((each * w).mean(), rel=1e-5)  # fmt: skip
    t.fit((X, Y), batch_size=16, verbose=0, sample_weight=w, class_weight=[1.0, 2.0])
    with pytest.raises(TypeError, match="can't be weighted"):
        Trainer(net(), loss=lambda o, y: F.cross_entropy(o, y), compile=False).fit((X, Y), verbose=0, sample_weight=w)  # fmt: skip
    with pytest.raises(TypeError, match="goes with arrays"):
        t.fit([(kiln.tensor(X), kiln.tensor(Y))] * 2, verbose=0, sample_weight=w)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 2), nn.Linear(3, 1)

    def forward(self, left, right):
        return {"kind": self.a(left), "size": self.b(right)}


@BOTH
def test_several_inputs_and_outputs(compiled):
    kiln.manual_seed(0)
    z, s = R.normal(size=(40, 3)).astype(np.float32), R.normal(size=(40, 1)).astype(np.float32)
    t = Trainer(
        Two(), loss={"kind": "cross_entropy", "size": "mse"}, loss_weights={"size": 0.5}, compile=compiled,
        metrics={"kind": ["accuracy"], "size": ["mae"]},
    )  # fmt: skip
    data = {"left": X, "right": z}, {"kind": Y, "size": s}
    h = t.fit(data, val=data, epochs=2, batch_size=16, verbose=0)
    assert set(h.keys()) == {
        p + n for p in ("", "val_") for n in ("loss", "kind_loss", "size_loss", "kind_accuracy", "size_mae")
    }  # fmt: skip
    logs = t.evaluate(data)
    assert logs["loss"] == pytest.approx(logs["kind_loss"] + 0.5 * logs["size_loss"], rel=1e-5)
    out = t.predict(data[0])
    assert {k: tuple(v.shape) for k, v in out.items()} == {"kind": (40, 2), "size": (40, 1)}
    assert t.evaluate((X, z, data[1]), 16)["loss"] == pytest.approx(logs["loss"], rel=1e-5)
    with pytest.raises(ValueError, match="no part 'size'"):
        t.fit((X, z, {"kind": Y}), verbose=0)
    with pytest.raises(ValueError, match="names an output that has no loss"):
        Trainer(Two(), loss={"kind": "cross_entropy"}, loss_weights={"nope": 1.0})


def test_outputs_in_a_tuple():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 2)

        def forward(self, x):
            return self.a(x), x.sum(1, keepdim=True) * self.a.bias[0]

    s = R.normal(size=(40, 1)).astype(np.float32)
    t = Trainer(Pair(), loss=["cross_entropy", "mse"], metrics=[["accuracy"], []], compile=False)
    h = t.fit((X, (Y, s)), verbose=0)
    assert list(h.keys()) == ["loss", "0_loss", "1_loss", "0_accuracy"]
    a, b = t.predict(X)
    assert (a.shape, b.shape) == ((40, 2), (40, 1))


class Own(TrainingModule):
    def __init__(self, lr=0.05):
        super().__init__()
        kiln.manual_seed(0)
        self.net, self.lr = net(), lr

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        out = self(x)
        loss = F.cross_entropy(out, y)
        self.log("hit", (out.argmax(1) == y).float().mean(), prog_bar=True)
        return loss

    def validation_step(self, batch):
        x, y = batch
        self.log("val_loss", F.cross_entropy(self(x), y))

    def configure_optimizers(self):
        o = kiln.optim.SGD(self.parameters(), lr=self.lr)
        s = kiln.optim.lr_scheduler.ExponentialLR(o, 0.5)
        return {"optimizer": o, "lr_scheduler": {"scheduler": s, "interval": "epoch"}}


@BOTH
def test_lightning_style(compiled):
    t = Trainer(Own(), compile=compiled)
    h = t.fit((X, Y), val=(X, Y), epochs=3, batch_size=16, verbose=0)
    assert set(h.keys()) == {"loss", "hit", "val_loss"}
    assert h["loss"][-1] < h["loss"][0]
    assert t.optimizer.param_groups[0]["lr"] == pytest.approx(0.05 / 8)
    same = Trainer(Own().net, optimizer=lambda p: kiln.optim.SGD(p, lr=0.05), compile=compiled)
    same.fit((X, Y), val=(X, Y), epochs=1, batch_size=16, verbose=0)
    assert t.model.current_epoch == 3
    if compiled:
        assert (
            max(s.captures for s in t.steps._made.values()) <= 4
        )  # two sizes, and optimizer state


@pytest.mark.parametrize("compiled", [True, False])
def test_lightning_hooks_and_reductions(compiled):
    """In Lightning 2.6's order; what is logged is reduced over the batches, or is the epoch's value in a hook."""
    calls = []

    class Net(TrainingModule):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 1)

        def training_step(self, batch, i):
            x, y = batch
            self.log_dict({"high": x.sum(), "all": x.sum()}, reduce_fx="max")
            self.log("all", x.sum(), reduce_fx=sum)
            return (self.layer(x) - y).square().mean()

        def validation_step(self, batch, i):
            self.log("val_low", batch[0].sum(), reduce_fx="min", prog_bar=True)

        def configure_optimizers(self):
            return kiln.optim.SGD(self.parameters(), lr=0.0)

    def hook(name):
        def call(self):
            calls.append(name)
            if name.endswith("epoch_end"):
                self.log("val_" * ("val" in name) + "seen", len(calls))

        return call

    names = [
        "on_fit_start", "on_train_start", "on_train_epoch_start", "on_validation_start", "on_validation_epoch_start",
        "on_validation_epoch_end", "on_validation_end", "on_train_epoch_end", "on_train_end", "on_fit_end",
    ]  # fmt: skip
    for name in names:
        setattr(Net, name, hook(name))
    x = X[:40, :4].astype(np.float32)
    sums = [x[i : i + 16].sum() for i in (0, 16, 32)]
    data = x, np.zeros((40, 1), np.float32)
    h = Trainer(Net(), compile=compiled).fit(data, data, batch_size=16, shuffle=False, verbose=0)
    assert calls == names
    found = {k: v[0] for k, v in h.history.items() if k != "loss"}
    wanted = {"high": max(sums), "all": sum(sums), "val_low": min(sums), "val_seen": 6, "seen": 8}
    assert found == pytest.approx(wanted, rel=1e-4)


def test_lightning_forms_of_optimizers():
    def trainer(make):
        m = Own()
        m.configure_optimizers = lambda: make(m)
        return Trainer(m, compile=False)

    sgd = lambda m: kiln.optim.SGD(m.parameters(), lr=0.1)  # noqa: E731
    assert len(trainer(sgd).optimizers) == 1
    assert len(trainer(lambda m: [sgd(m), sgd(m)]).optimizers) == 2

    def pair(m):
        o = sgd(m)
        return [o], [kiln.optim.lr_scheduler.StepLR(o, 1)]

    t = trainer(pair)
    t.fit((X, Y), verbose=0)
    assert t.optimizer.param_groups[0]["lr"] == pytest.approx(0.01)
    with pytest.raises(TypeError, match="gave no optimizer"):
        trainer(lambda m: 3).fit((X, Y), verbose=0)


@BOTH
def test_manual_optimization_of_two_optimizers(compiled):
    class Gan(TrainingModule):
        automatic_optimization = False

        def __init__(self):
            super().__init__()
            kiln.manual_seed(0)
            self.g, self.d = nn.Linear(2, 4), nn.Linear(4, 1)

        def configure_optimizers(self):
            return [kiln.optim.Adam(self.g.parameters(), 0.01), kiln.optim.Adam(self.d.parameters(), 0.01)]  # fmt: skip

        def training_step(self, batch):
            (x,) = batch
            og, od = self.optimizers()
            fake = self.g(kiln.randn(x.shape[0], 2))
            od.zero_grad()
            d_loss = F.softplus(self.d(fake.detach())).mean() + F.softplus(-self.d(x)).mean()
            d_loss.backward()
            od.step()
            og.zero_grad()
            g_loss = F.softplus(-self.d(fake)).mean()
            g_loss.backward()
            og.step()
            return {"d_loss": d_loss, "g_loss": g_loss}

    m = Gan()
    before = m.g.weight.detach().clone(), m.d.weight.detach().clone()
    h = Trainer(m, compile=compiled).fit((X,), epochs=2, batch_size=20, verbose=0)
    assert set(h.keys()) == {"d_loss", "g_loss"}
    assert not kiln.equal(before[0], m.g.weight)
    assert not kiln.equal(before[1], m.d.weight)


def test_custom_steps_that_give_nothing():
    class No(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(kiln.zeros(1))

        def training_step(self, batch):
            return {"note": kiln.zeros(3)}

    with pytest.raises(TypeError, match="not a number"):
        Trainer(No(), compile=False).fit((X, Y), verbose=0)
    No.training_step = lambda self, batch: None
    with pytest.raises(TypeError, match="gave no loss"):
        Trainer(No(), compile=False).fit((X, Y), verbose=0)


@in_turn("compiled", [False, True])
def test_metrics_are_exact_over_uneven_batches(compiled):
    metrics = ["accuracy", "f1", kiln.metrics.AUROC(), kiln.metrics.ConfusionMatrix(num_classes=2)]
    t = Trainer(net(), metrics=metrics, compile=compiled)
    whole, parts = (t.evaluate((X, Y), n) for n in (40, 7))
    assert whole.keys() == parts.keys() == {"loss", "accuracy", "f1", "auroc", "confusion_matrix"}
    for k in ("loss", "accuracy", "f1", "auroc"):
        assert whole[k] == pytest.approx(parts[k], rel=1e-6)
    assert kiln.equal(whole["confusion_matrix"], parts["confusion_matrix"])
    t.fit((X, Y), val=(X, Y), epochs=2, batch_size=16, verbose=0)
    assert t.history["val_accuracy"][-1] == pytest.approx(t.evaluate((X, Y))["accuracy"])


def test_steps_are_captured_once():
    t = Trainer(net(), metrics=["accuracy"])
    t.fit((X, Y), val=(X, Y), epochs=4, batch_size=20, verbose=0)
    first = {n: s.captures for n, s in t.steps._made.items()}
    t.fit((X, Y), val=(X, Y), epochs=2, batch_size=20, verbose=0)
    assert {n: s.captures for n, s in t.steps._made.items()} == first
    assert max(first.values()) <= 2


def test_arrays_of_numpys_default_dtype():
    x = X.astype(np.float64)
    t = Trainer(net(), compile=False)
    t.fit((x, Y), val=(x, Y), verbose=0)
    assert t.predict(x).dtype == kiln.float32
    double = Trainer(net().double(), compile=False)
    double.fit((x, Y), verbose=0)
    assert double.predict(x).dtype == kiln.float64
    with pytest.raises(RuntimeError, match="same dtype"):
        t.fit((kiln.tensor(x), kiln.tensor(Y)), verbose=0)


def test_optimizers_that_would_do_nothing():
    other = kiln.optim.SGD(net().parameters(), lr=0.1)
    with pytest.raises(ValueError, match="no parameter of the model"):
        Trainer(net(), optimizer=other).fit((X, Y), verbose=0)
    with pytest.raises(TypeError, match="LBFGS"):
        Trainer(net(), optimizer=kiln.optim.LBFGS).fit((X, Y), verbose=0)


def test_options_of_the_compiler():
    t = Trainer(net(), compile={"max_memory": 10_000_000})
    t.fit((X, Y), batch_size=20, verbose=0)
    assert t.steps._made["train"].max_memory == 10_000_000
    with pytest.raises(MemoryError, match="training step failed at epoch 1, batch 1"):
        Trainer(net(), compile={"max_memory": 64}).fit((X, Y), batch_size=20, verbose=0)


def test_what_cannot_be_captured_runs_with_a_warning():
    def loss(output, target):
        value = F.cross_entropy(output, target)
        value.item()
        return value

    with pytest.warns(UserWarning, match="eager"):
        h = Trainer(net(), loss=loss).fit((X, Y), batch_size=20, epochs=2, verbose=0)
    assert h["loss"][1] < h["loss"][0]


@BOTH
def test_freezing_between_fits_is_seen(compiled):
    t = Trainer(net(), compile=compiled)
    t.fit((X, Y), batch_size=20, verbose=0)
    freeze(t.model, "0")
    kept = t.model[0].weight.detach().clone()
    t.optimizer.zero_grad()
    t.fit((X, Y), batch_size=20, verbose=0)
    assert kiln.equal(kept, t.model[0].weight)


def test_errors_of_other_classes_say_where():
    class Odd(Exception):
        pass

    def loss(output, target):
        raise Odd("no")

    with pytest.raises(Odd) as e:
        Trainer(net(), loss=loss, compile=False).fit((X, Y), verbose=0)
    assert "epoch 1, batch 1" in e.value.__notes__[0]
    t = Trainer(net(), compile=False)
    with pytest.raises(RuntimeError, match="validation step failed at batch 2"):
        t.evaluate([(kiln.tensor(X), kiln.tensor(Y)), (kiln.ones(2, 3), kiln.tensor(Y[:2]))])


def test_on_batch():
    t = Trainer(net(), metrics=["accuracy"], compile=False)
    a, b = t.train_on_batch(X, Y), t.train_on_batch(X, Y, class_weight={0: 2.0})
    assert a.keys() == b.keys() == {"loss", "accuracy"}
    assert t.step == 2


def test_seeds():
    def run():
        t = Trainer(net(), seed=7, compile=False)
        kiln.randn(3)
        return t.fit((X, Y), epochs=2, batch_size=8, verbose=0).history

    assert run() == run()


def test_stopping_in_the_middle_of_an_epoch():
    class Stop(Callback):
        def on_train_batch_end(self, batch, logs):
            self.trainer.stop = batch == 1

    t = Trainer(net(), compile=False)
    h = t.fit((X, Y), epochs=3, batch_size=8, val=(X, Y), verbose=0, callbacks=[Stop()])
    assert t.step == 2
    assert len(h["val_loss"]) == 1
