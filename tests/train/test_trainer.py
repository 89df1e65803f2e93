"""Trainer, History and metrics."""

import numpy as np
import pytest

import kiln
from kiln import metrics, nn
from kiln.data import DataLoader, TensorDataset
from kiln.train import Callback, EarlyStopping, Trainer


def task(n=96, seed=0):
    r = np.random.default_rng(seed)
    x = r.normal(size=(n, 4)).astype(np.float32)
    return x, (x[:, 0] + x[:, 1] > 0).astype(np.int64)


def model():
    kiln.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))


def trainer(**options):
    m = model()
    options.setdefault("optimizer", kiln.optim.Adam(m.parameters(), lr=0.05))
    return Trainer(m, compile=False, metrics=["accuracy"], **options)


def test_fit_learns_and_notes_it(capsys):
    t = trainer()
    x, y = task()
    history = t.fit((x, y), val=task(seed=1), epochs=8, batch_size=16)
    assert list(history.keys()) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    assert history.epoch == list(range(8))
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert history["val_accuracy"][-1] > 0.85
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8
    assert lines[0].startswith("epoch 1/8  ")
    assert f"loss {history['loss'][0]:.4f}" in lines[0]
    assert t.model.training


def test_means_weigh_samples_alike():
    t = trainer()
    x, y = task(10)
    whole = t.evaluate((x, y), batch_size=10)
    parts = t.evaluate((x, y), batch_size=4)
    assert whole == pytest.approx(parts, rel=1e-5)


@pytest.mark.parametrize("kind", ["arrays", "tensors", "dataset", "loader", "batches"])
def test_kinds_of_data(kind):
    x, y = task(20)
    tx, ty = kiln.tensor(x), kiln.tensor(y)
    data = {
        "arrays": (x, y), "tensors": [tx, ty], "dataset": TensorDataset(tx, ty),
        "loader": DataLoader(TensorDataset(tx, ty), batch_size=8), "batches": [(tx, ty), (tx, ty)],
    }[kind]  # fmt: skip
    t = trainer()
    t.fit(data, epochs=1, verbose=False)
    assert t.evaluate(data).keys() == {"loss", "accuracy"}


def test_predict():
    t = trainer()
    x, _ = task(20)
    out = t.predict(x, batch_size=7)
    assert out.shape == (20, 2)
    assert not out.requires_grad
    np.testing.assert_allclose(out.numpy(), t.model(kiln.tensor(x)).detach().numpy(), rtol=1e-5)
    table = TensorDataset(*map(kiln.tensor, task(20)))  # with targets, which predict leaves out
    for data in (DataLoader(TensorDataset(kiln.tensor(x)), 5), table, DataLoader(table, 3)):
        np.testing.assert_allclose(t.predict(data).numpy(), out.numpy(), rtol=1e-5, atol=1e-6)


def test_names_and_lazy_layers():
    m = nn.Sequential(nn.LazyLinear(8), nn.Tanh(), nn.LazyLinear(1), nn.Flatten(0))
    t = Trainer(m, loss="bce_with_logits", optimizer="adam", metrics=["accuracy"], compile=False)
    x, y = task()
    history = t.fit((x, y.astype(np.float32)), epochs=2, verbose=False)
    assert history["loss"][1] < history["loss"][0]
    t2 = Trainer(nn.Linear(4, 1), loss=lambda o, y: (o[:, 0] - y).square().mean(), optimizer="sgd",
                 metrics=[metrics.mae, "mse"], compile=False)  # fmt: skip
    assert list(t2.fit((x, y.astype(np.float32)), epochs=1, verbose=False).keys()) == [
        "loss",
        "mae",
        "mse",
    ]


def test_several_inputs():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 2)

        def forward(self, a, b):
            return self.fc(a + b)

    x, y = task(20)
    t = Trainer(Sum(), compile=False)
    t.fit((x, x, y), epochs=1, verbose=False)
    assert t.predict((x, x)).shape == (20, 2)


def test_callbacks_and_stopping():
    log = []

    class Log(Callback):
        def on_train_batch_end(self, batch, logs):
            log.append(batch)

        def on_epoch_end(self, epoch, logs):
            self.trainer.stop = epoch == 1

    t = trainer()
    plain = []
    history = t.fit(task(20), epochs=5, batch_size=10, verbose=False,
                    callbacks=[Log(), lambda tr, epoch, logs: plain.append((epoch, sorted(logs)))])  # fmt: skip
    assert log == [0, 1, 0, 1]
    assert plain == [(0, ["accuracy", "loss"]), (1, ["accuracy", "loss"])]
    assert len(history.epoch) == 2
    assert t.fit(task(20), epochs=1, verbose=False).epoch == [0, 1, 2]
    still = trainer(optimizer=lambda params: kiln.optim.SGD(params, lr=0.0))
    stopped = still.fit(
        task(20),
        epochs=9,
        verbose=False,
        callbacks=[EarlyStopping("loss", patience=2, min_delta=1e-3)],
    )
    assert len(stopped.epoch) == 3


def test_ctrl_c_keeps_the_history():
    def interrupt(trainer, epoch, logs):
        if epoch == 1:
            raise KeyboardInterrupt

    t = trainer()
    history = t.fit(task(20), epochs=5, verbose=False, callbacks=[interrupt])
    assert history.interrupted
    assert history.epoch == [0, 1]


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: Trainer(3), TypeError),
        (lambda: Trainer(model(), loss="nope"), ValueError),
        (lambda: Trainer(model(), optimizer="nope"), ValueError),
        (lambda: Trainer(model(), metrics=["nope"]), ValueError),
        (lambda: Trainer(model(), metrics=[3]), TypeError),
        (lambda: trainer().fit(3, verbose=False), TypeError),
        (lambda: trainer().fit([kiln.zeros(2, 4)], verbose=False), TypeError),
        (lambda: trainer().fit([], verbose=False), ValueError),
    ],
)
def test_errors_in_three_lines(make, error):
    with pytest.raises(error) as e:
        make()
    assert str(e.value).startswith("[")


def test_metrics():
    scores = kiln.tensor([[0.1, 0.5, 0.4], [0.9, 0.0, 0.1], [0.2, 0.3, 0.5], [0.4, 0.35, 0.25]])
    target = kiln.tensor([1, 0, 0, 2])
    assert metrics.accuracy(scores, target).item() == 0.5
    assert metrics.accuracy(scores, kiln.nn.functional.one_hot(target, 3).float()).item() == 0.5
    assert metrics.accuracy(kiln.tensor([0.7, 0.2]), kiln.tensor([1.0, 1.0])).item() == 0.5
    assert metrics.accuracy(kiln.tensor([[0.7], [0.2]]), kiln.tensor([1, 0])).item() == 1.0
    assert metrics.top_k(scores, target, 1).item() == 0.5
    assert metrics.top_k(scores, target, 2).item() == 0.5
    assert metrics.top_k(scores, target, 3).item() == 1.0
    a, b = kiln.tensor([1.0, 3.0]), kiln.tensor([2.0, 1.0])
    assert (metrics.mae(a, b).item(), metrics.mse(a, b).item()) == (1.5, 2.5)
    with pytest.raises(ValueError, match="don't go together"):
        metrics.accuracy(kiln.zeros(3, 2), kiln.zeros(5))


def test_compiled_and_eager_training_agree():
    found = []
    for compiled in (False, True):
        kiln.manual_seed(0)
        m = nn.Sequential(
            nn.LazyLinear(8), nn.Tanh(), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 2)
        )
        t = Trainer(
            m,
            optimizer=kiln.optim.AdamW(m.parameters(), lr=0.02),
            metrics=["accuracy"],
            compile=compiled,
        )
        h = t.fit(task(40), val=task(20, seed=1), epochs=3, batch_size=16, verbose=False)
        found.append(
            [
                *h["loss"],
                *h["val_loss"],
                *h["val_accuracy"],
                *t.predict(task(5)[0]).reshape(-1).tolist(),
            ]
        )
    np.testing.assert_allclose(*found, rtol=2e-3, atol=1e-4)
