"""Callbacks: which hooks are called when, and what each of Kiln's does."""

import csv
import math
import sys
import types

import numpy as np
import pytest

import kiln
from kiln import nn
from kiln.train import (
    EMA,
    Callback,
    CSVLogger,
    EarlyStopping,
    GradientClipping,
    LambdaCallback,
    LearningRateScheduler,
    MLflowLogger,
    OneCycle,
    ReduceLROnPlateau,
    Schedule,
    TensorBoard,
    TerminateOnNaN,
    Timer,
    Trainer,
    Unfreeze,
    WandbLogger,
    freeze,
    param_groups,
    unfreeze,
)
from kiln.train.callbacks import HOOKS, Monitor

R = np.random.default_rng(0)
X = R.normal(size=(40, 4)).astype(np.float32)
Y = (X[:, 0] + X[:, 1] > 0).astype(np.int64)


def make(lr=0.05, **options):
    kiln.manual_seed(0)
    m = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    options.setdefault("optimizer", lambda p: kiln.optim.SGD(p, lr=lr))
    return Trainer(m, compile=options.pop("compile", False), **options)


def fit(t, *callbacks, epochs=1, **options):
    return t.fit((X, Y), epochs=epochs, batch_size=20, verbose=0, callbacks=callbacks, **options)


def test_hooks_and_their_order():
    seen = []

    def note(name):
        return lambda *a: seen.append(name.removeprefix("on_"))

    every = LambdaCallback(**{n: note(n) for n in HOOKS})
    t = make()
    fit(t, every, val=(X, Y))
    step = [
        "train_batch_begin", "before_optimizer_step", "after_optimizer_step", "train_batch_end",
    ]  # fmt: skip
    batch = ["test_batch_begin", "test_batch_end"]
    assert seen == [
        "train_begin", "epoch_begin", *step, *step, "test_begin", *batch, *batch, "test_end", "epoch_end", "train_end",
    ]  # fmt: skip
    seen.clear()
    t.evaluate((X, Y), callbacks=[every])
    t.predict(X, callbacks=[every])
    assert seen == [
        "test_begin", *batch, *batch, "test_end", "predict_begin", *["predict_batch_begin", "predict_batch_end"] * 2,
        "predict_end",
    ]  # fmt: skip
    with pytest.raises(TypeError, match="no such hook"):
        LambdaCallback(on_batch=print)
    with pytest.raises(TypeError, match="a callback is"):
        fit(t, EarlyStopping)


def test_batch_logs_are_the_epoch_so_far():
    seen = []
    t = make(metrics=["accuracy"])
    h = fit(t, LambdaCallback(on_train_batch_end=lambda b, logs: seen.append(dict(logs))))
    assert [sorted(s) for s in seen] == [["accuracy", "loss"]] * 2
    assert seen[-1] == {k: v[0] for k, v in h.history.items()}


def test_evaluating_in_a_hook_leaves_the_epoch_alone():
    t, plain = (make(metrics=["accuracy"], seed=1) for _ in range(2))
    a = fit(t, LambdaCallback(on_train_batch_end=lambda b, logs: t.evaluate((X, Y))), epochs=2)
    b = fit(plain, epochs=2)
    assert a.history == b.history


@pytest.mark.parametrize(
    ("name", "mode"),
    [("val_loss", "min"), ("accuracy", "max"), ("val_auroc", "max"), ("val_top_5", "max"), ("mae", "min"),
     ("perplexity", "min"), ("out_accuracy", "max"), ("val_f1", "max"), ("accuracy_loss", "min"), ("cosine_similarity", "max")],
)  # fmt: skip
def test_auto_mode(name, mode):
    assert Monitor("test", name).mode == mode


class Values(Callback):
    """Says that an epoch's value is what a list says."""

    def __init__(self, values, name="val_loss"):
        self.values, self.name = values, name

    def on_epoch_end(self, epoch, logs):
        logs[self.name] = self.values[epoch]


def test_early_stopping():
    t = make()
    stop = EarlyStopping(patience=2, restore_best_weights=True)
    weights = []
    h = fit(
        t, Values([3.0, 1.0, 2.0, 1.5, 0.1]), stop, lambda t, e, logs: weights.append(t.model[0].weight.clone()), epochs=5
    )  # fmt: skip
    assert len(h.epoch) == 4
    assert (stop.stopped_epoch, stop.best_epoch, stop.best) == (3, 1, 1.0)
    assert kiln.equal(t.model[0].weight, weights[1])
    assert len(fit(make(), Values([0.1, 0.2, 0.3], "val_f1"), EarlyStopping("val_f1", patience=1), epochs=3).epoch) == 3  # fmt: skip
    base = EarlyStopping(patience=3, baseline=0.5)
    assert len(fit(make(), Values([0.9, 0.8, 0.85, 0.1]), base, epochs=4).epoch) == 3
    with pytest.warns(kiln.errors.KilnWarning, match="watches 'nope'"):
        fit(make(), EarlyStopping("nope"))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, (4, 3, 2)), ({"patience": 2}, (5, 4, 2)), ({"patience": 5}, (11, 0, 6)),
        ({"min_delta": 0.5, "patience": 1}, (4, 3, 2)), ({"min_delta": -0.5, "patience": 1}, (4, 3, 2)),
        ({"baseline": 2.95, "patience": 2}, (4, 3, 2)), ({"baseline": 4.5, "patience": 2}, (5, 4, 2)),
        ({"start_from_epoch": 3, "patience": 1}, (8, 7, 6)), ({"mode": "max", "patience": 2}, (3, 2, 0)),
    ],
)  # fmt: skip
def test_early_stopping_is_keras_15(options, told):
    """(epochs trained, stopped_epoch, best_epoch) that Keras 3.15 comes to with these values."""
    values = [5, 4, 3, 3.5, 3.2, 3.1, 2.9, 3, 3, 3, 3]

    def give(trainer, epoch, logs):
        logs["val_loss"] = values[epoch]

    stopping = EarlyStopping(**options)
    h = fit(make(), give, stopping, epochs=len(values))
    assert (len(h.epoch), stopping.stopped_epoch, stopping.best_epoch) == told


def test_keras_words_of_callbacks():
    """Hooks of batches have two names, may be called without logs, and know `params`."""
    seen = []

    class Mine(Callback):
        def set_model(self, model):
            super().set_model(model)
            seen.append(type(model).__name__)

        def on_batch_begin(self, batch, logs=None):
            seen.append(batch)

        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch)
            seen.append(self.params)

    ends = []
    h = fit(make(), Mine(), LambdaCallback(on_batch_end=lambda batch, logs: ends.append(batch)), epochs=2)  # fmt: skip
    params = {"verbose": 0, "epochs": 2, "steps": 2}
    assert seen == ["Sequential", 0, 1, params, 0, 1, params]
    assert ends == [0, 1, 0, 1]
    assert h.params == params


def test_learning_rates():
    t = make(lr=1.0)
    seen = []
    fit(
        t, LearningRateScheduler(lambda epoch, lr: lr * 0.5), epochs=3,
    )  # fmt: skip
    assert t.history["learning_rate"] == [0.5, 0.25, 0.125]
    t = make(lr=1.0)
    fit(t, Schedule(lambda o: kiln.optim.lr_scheduler.ExponentialLR(o, 0.5)), epochs=3)
    assert t.optimizer.param_groups[0]["lr"] == 0.125
    t = make(lr=1.0, accumulate=2)
    fit(t, Schedule(lambda o: kiln.optim.lr_scheduler.ExponentialLR(o, 0.5), "step"), epochs=3)
    assert t.optimizer.param_groups[0]["lr"] == 0.125
    t = make(lr=1.0)
    fit(t, Values([1.0, 1.0, 1.0, 1.0]), ReduceLROnPlateau(patience=2, factor=0.5), epochs=4)
    assert t.history["learning_rate"] == [1.0, 1.0, 1.0, 0.5]
    t = make(lr=1.0)
    rate = LambdaCallback(on_train_batch_end=lambda b, g: seen.append(t.optimizer.param_groups[0]["lr"]))  # fmt: skip
    fit(t, OneCycle(1.0), rate, epochs=5)
    assert len(seen) == 10
    assert max(seen) == pytest.approx(1.0)
    assert seen[-1] < 1e-3


def test_clipping_and_its_place_in_compiled_steps():
    for compiled in (False, True):
        t = make(lr=1.0, compile=compiled)
        before = [p.detach().clone() for p in t.model.parameters()]
        t.fit((X[:20], Y[:20]), batch_size=20, verbose=0, callbacks=[GradientClipping(max_norm=0.01)])  # fmt: skip
        moved = math.sqrt(sum(float(((p - b) ** 2).sum()) for p, b in zip(t.model.parameters(), before, strict=True)))  # fmt: skip
        assert moved == pytest.approx(0.01, rel=1e-3)
        t = make(lr=1.0, compile=compiled)
        before = [p.detach().clone() for p in t.model.parameters()]
        t.fit((X[:20], Y[:20]), batch_size=20, verbose=0, callbacks=[GradientClipping(max_value=0.001)])  # fmt: skip
        assert max(float((p - b).abs().max()) for p, b in zip(t.model.parameters(), before, strict=True)) <= 0.0010001  # fmt: skip
    with pytest.raises(ValueError, match="max_norm or max_value"):
        GradientClipping()


@pytest.mark.parametrize("compiled", [False, True])
def test_ema(compiled):
    t = make(compile=compiled)
    ema, raw, tested = EMA(0.5), [], []
    w = t.model[0].weight
    start = w.detach().clone()
    h = fit(
        t, ema, LambdaCallback(
            on_train_batch_end=lambda b, logs: raw.append(w.detach().clone()),
            on_test_batch_begin=lambda b, logs: tested.append(w.detach().clone()),
        ), val=(X, Y),
    )  # fmt: skip
    want = 0.5 * (0.5 * start + 0.5 * raw[0]) + 0.5 * raw[1]
    np.testing.assert_allclose(w.detach().numpy(), want.numpy(), rtol=1e-5, atol=1e-7)
    assert kiln.equal(tested[0], w)
    assert t.evaluate((X, Y))["loss"] == pytest.approx(h["val_loss"][0], rel=1e-6)


def test_accumulation_is_a_larger_batch():
    small, large = make(accumulate=2), make()
    small.fit((X, Y), epochs=2, batch_size=10, shuffle=False, verbose=0)
    large.fit((X, Y), epochs=2, batch_size=20, shuffle=False, verbose=0)
    assert (small.updates, small.step) == (4, 8)
    np.testing.assert_allclose(small.predict(X).numpy(), large.predict(X).numpy(), rtol=1e-4, atol=1e-5)  # fmt: skip
    odd = make(accumulate=3)
    odd.fit(
        (X, Y), epochs=2, batch_size=10, verbose=0
    )  # four batches: the last is a step of its own
    assert odd.updates == 4
    seen = []
    cycle = OneCycle(0.1)
    odd.fit(
        (X, Y), epochs=3, batch_size=10, verbose=0,
        callbacks=[cycle, lambda t, e, logs: seen.append(cycle.scheduler.last_epoch)],
    )  # fmt: skip
    assert seen == [2, 4, 5]  # two steps of the optimizer an epoch, the last one ends the cycle


def test_mixed_precision():
    seen = []

    class Look(nn.Module):
        def forward(self, x):
            seen.append(x.dtype)
            return x

    kiln.manual_seed(0)
    m = nn.Sequential(nn.Linear(4, 8), Look(), nn.Linear(8, 2))
    t = Trainer(m, precision="bfloat16", compile=False)
    h = fit(t, epochs=3)
    assert set(seen) == {kiln.bfloat16}
    assert m[0].weight.dtype == kiln.float32
    assert h["loss"][-1] < h["loss"][0]
    with pytest.raises(ValueError, match="no such precision"):
        Trainer(m, precision="float8")


def test_csv(tmp_path):
    path = tmp_path / "log" / "a.csv"
    t = make(metrics=["accuracy", "confusion_matrix"])
    h = fit(t, CSVLogger(path), epochs=2)
    with open(path) as f:
        rows = list(csv.DictReader(f))
    assert [r["epoch"] for r in rows] == ["0", "1"]
    assert list(rows[0]) == ["epoch", "loss", "accuracy"]
    assert [float(r["loss"]) for r in rows] == h["loss"]
    fit(make(), CSVLogger(path, append=True))
    assert len(path.read_text().splitlines()) == 4
    fit(make(), CSVLogger(path, separator=";"))
    assert path.read_text().splitlines()[0] == "epoch;loss"


def test_csv_of_a_resumed_training(tmp_path):
    from kiln.train import ModelCheckpoint

    path = tmp_path / "a.csv"
    whole = make(seed=1)
    fit(whole, CSVLogger(path), epochs=3)
    wanted = path.read_text()
    first = make(seed=1)
    fit(first, CSVLogger(path), ModelCheckpoint(tmp_path), epochs=2)
    fit(make(seed=1), CSVLogger(path), ModelCheckpoint(tmp_path), epochs=3, resume=tmp_path)
    assert path.read_text() == wanted


def test_tensorboard(tmp_path):
    t = make(metrics=["accuracy"])
    fit(t, TensorBoard(tmp_path, histogram_freq=1, write_graph=True, update_freq=1), val=(X, Y))
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train = accumulator.EventAccumulator(str(tmp_path / "train")).Reload()
    assert {"epoch_loss", "epoch_accuracy", "epoch_learning_rate", "batch_loss"} <= set(train.Tags()["scalars"])  # fmt: skip
    assert train.Tags()["graph"]
    assert "0/weight" in train.Tags()["histograms"]
    val = accumulator.EventAccumulator(str(tmp_path / "validation")).Reload()
    assert val.Scalars("epoch_loss")[0].value == pytest.approx(t.history["val_loss"][0])


@pytest.mark.parametrize(("callback", "name"), [(MLflowLogger, "MLflowWriter"), (WandbLogger, "WandbWriter")])  # fmt: skip
def test_services_get_the_values(callback, name, monkeypatch):
    seen, closed = [], []

    class Writer:
        def __init__(self, *args, **settings):
            seen.append((args, settings))

        def add_scalar(self, tag, value, step):
            seen.append((tag, step))

        def flush(self):
            pass

        def close(self):
            closed.append(True)

    monkeypatch.setattr(kiln.board, name, Writer)
    t = make()
    fit(t, callback("digits", update_freq="batch"), val=(X, Y))
    assert seen[0] in (((), {"project": "digits"}), (("digits",), {}))
    assert seen[1:] == [
        ("batch_loss", 1), ("batch_loss", 2), ("loss", 0), ("val_loss", 0), ("learning_rate", 0),
    ]  # fmt: skip
    assert closed == [True]
    with pytest.raises(ValueError, match="no such update_freq"):
        callback(update_freq="year")


def test_nan_may_raise():
    t = make(loss=lambda output, target: output.sum() * float("nan"))
    with pytest.raises(RuntimeError, match="the loss is nan"):
        fit(t, TerminateOnNaN(raise_error=True))


def test_nan_and_time_end_training(capsys):
    bad = X.copy()
    bad[0] = np.nan
    t = make()
    t.fit((bad, Y), epochs=3, batch_size=20, shuffle=False, verbose=0, callbacks=[TerminateOnNaN()])
    assert (t.step, len(t.history.epoch)) == (1, 1)
    assert "the loss is nan" in capsys.readouterr().out
    clock = Timer(max_seconds=0.0)
    t = make()
    fit(t, clock, epochs=3)
    assert t.step == 1
    assert len(clock.seconds) == 1


def test_freezing_and_groups():
    t = make()
    assert freeze(t.model, "0") == ["0.weight", "0.bias"]
    before = t.model[0].weight.detach().clone(), t.model[2].weight.detach().clone()
    fit(t)
    assert kiln.equal(before[0], t.model[0].weight)
    assert not kiln.equal(before[1], t.model[2].weight)
    unfreeze(t.model)
    groups = param_groups(t.model, {"0": 1e-4, "2.bias": 1e-2}, default=1e-3)
    assert [(g["lr"], len(g["params"])) for g in groups] == [(1e-4, 2), (1e-2, 1), (1e-3, 1)]
    kiln.optim.AdamW(groups)
    with pytest.raises(ValueError, match="no parameters are under"):
        freeze(t.model, "nope")


@pytest.mark.parametrize("compiled", [False, True])
def test_unfreezing_on_the_way_and_after_a_restart(tmp_path, compiled):
    from kiln.train import ModelCheckpoint

    def run(epochs, *more, **options):
        t = make(compile=compiled, seed=0)
        freeze(t.model, "0")
        fit(t, Unfreeze(1, "0", lr=0.01), *more, epochs=epochs, **options)
        return t

    whole = run(3)
    assert [g["lr"] for g in whole.optimizer.param_groups] == [0.05, 0.01]
    run(2, ModelCheckpoint(tmp_path))
    resumed = run(3, resume=tmp_path)
    assert kiln.equal(whole.model[0].weight, resumed.model[0].weight)
    start = make().model[0].weight
    assert not kiln.equal(start, whole.model[0].weight)


def test_finder_takes_everything_back():
    t = make(metrics=["accuracy"])
    fit(t)
    weights = [p.detach().clone() for p in t.model.parameters()]
    state = kiln.get_rng_state()
    found = t.lr_find((X, Y), batch_size=20, steps=60)
    assert 1e-3 < found.suggestion() < 10
    assert all(kiln.equal(a, b) for a, b in zip(weights, t.model.parameters(), strict=True))
    assert kiln.equal(state, kiln.get_rng_state())
    assert len(t.history.epoch) == 1
    assert t.optimizer.param_groups[0]["lr"] == 0.05
    assert "suggestion=" in repr(found)
    with pytest.raises(ValueError, match="rates rise"):
        t.lr_find((X, Y), min_lr=1.0, max_lr=0.1)


def test_pictures(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    t = make(metrics=["accuracy"])
    h = fit(t, epochs=3, val=(X, Y))
    figure = h.plot(path=tmp_path / "h.png")
    assert [ax.get_title() for ax in figure.axes] == ["loss", "accuracy"]
    assert len(figure.axes[0].lines) == 2
    assert (tmp_path / "h.png").stat().st_size > 5000
    assert all(tick == int(tick) for ax in figure.axes for tick in ax.get_xticks())
    assert len(h.plot("accuracy").axes) == 1
    with pytest.raises(KeyError, match="nothing of this name"):
        h.plot("nope")
    assert t.lr_find((X, Y), steps=20, batch_size=20).plot().axes
    for name in [n for n in sys.modules if n.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError) as e:
        h.plot()
    assert len(str(e.value).splitlines()) == 3


def test_displays(capsys, monkeypatch):
    t = make()
    fit_with = lambda v: t.fit((X, Y), verbose=v)  # noqa: E731
    for verbose in (0, False):
        fit_with(verbose)
        assert capsys.readouterr().out == ""
    for verbose in (True, 2, "auto"):
        fit_with(verbose)
        out = capsys.readouterr().out
        assert out.count("\n") == 1
        assert "\r" not in out
        assert "\x1b" not in out
    fit_with(1)
    assert "loss" in capsys.readouterr().out
    t.evaluate((X, Y), verbose=2)
    assert capsys.readouterr().out.startswith("evaluate")
    with pytest.raises(ValueError, match="no such verbose"):
        fit_with(7)


def test_a_notebook_gets_a_table(monkeypatch):
    drawn = []

    class Handle:
        def update(self, content):
            drawn.append(content)

    shell = type("ZMQInteractiveShell", (), {})()
    ipython, inner = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    ipython.get_ipython = lambda: shell
    inner.HTML, inner.display = str, lambda content, display_id: Handle()
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", inner)
    make(metrics=["accuracy"], compile=True).fit((X, Y), epochs=2)
    assert drawn[-1].count("<tr>") == 3
    assert "<th>accuracy</th>" in drawn[-1]
    assert "<progress" in drawn[0]
    assert sum("compiling the first step" in d for d in drawn) == 1
