"""How much is trained and validated, hooks of a TrainingModule, and what it logs: counts and orders are those of Lightning 2.6.6."""

import pytest

import kiln
import kiln.nn.functional as F
from kiln import Trainer, nn
from kiln.data import DataLoader, TensorDataset
from kiln.train import Callback, ModelCheckpoint, TrainingModule

DATA = TensorDataset(kiln.ones(20, 4), kiln.ones(20))
TRAIN, VAL = DataLoader(DATA, 2), DataLoader(DATA, 4)


class Net(TrainingModule):
    def __init__(self, width=4, rate=0.1, *, note="none"):
        super().__init__()
        self.save_hyperparameters(ignore="note")
        self.l = nn.Linear(4, self.hparams.width)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.mse_loss(self.l(x).mean(1), y)
        self.log("a", loss, on_step=True, on_epoch=True)
        self.log("b", loss, on_step=True)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", F.mse_loss(self.l(x).mean(1), y))

    def configure_optimizers(self):
        return kiln.optim.SGD(self.parameters(), lr=self.hparams.rate)


class Count(Callback):
    def __init__(self):
        self.train = self.runs = self.val = 0

    def on_train_batch_end(self, batch, logs=None):
        self.train += 1

    def on_test_begin(self, logs=None):
        self.runs += 1

    def on_test_batch_end(self, batch, logs=None):
        self.val += 1


@pytest.mark.parametrize(
    ("limits", "steps", "runs", "val"),
    [
        ({"limit_train_batches": 0.5}, 5, 1, 5), ({"limit_val_batches": 0.4}, 10, 1, 2), ({"val_check_interval": 3}, 10, 3, 15),
        ({"val_check_interval": 0.25}, 10, 5, 25), ({"max_steps": 20}, 20, 2, 10), ({"overfit_batches": 3}, 3, 1, 3),
        ({"fast_dev_run": True}, 1, 1, 1), ({"fast_dev_run": 3}, 3, 1, 3), ({"num_sanity_val_steps": 2}, 10, 2, 7),
    ],
)  # fmt: skip
def test_as_much_as_in_lightning(limits, steps, runs, val, tmp_path):
    seen = Count()
    t = Trainer(Net(), compile=False, callbacks=[seen], **limits)
    t.fit(TRAIN, VAL, verbose=0, callbacks=[ModelCheckpoint(tmp_path)])
    assert (t.updates, seen.train, seen.runs, seen.val) == (steps, steps, runs, val)
    assert bool(list(tmp_path.iterdir())) == ("fast_dev_run" not in limits)


def test_limits_refuse_what_they_cannot_mean():
    with pytest.raises(TypeError, match="no such option"):
        Trainer(Net(), limit_training_batches=3)
    with pytest.raises(ValueError, match="or a share"):
        Trainer(Net(), limit_train_batches=1.5)
    with pytest.raises(ValueError, match="leaves no batch"):
        Trainer(Net(), limit_train_batches=0.01).fit(TRAIN, verbose=0)
    with pytest.raises(ValueError, match="nobody knows"):
        Trainer(Net(), limit_train_batches=0.5).fit((b for b in TRAIN), verbose=0)


def test_a_limited_training_goes_on_to_the_same_bits(tmp_path):
    def fit(epochs, **options):
        kiln.manual_seed(0)
        t = Trainer(nn.Linear(4, 2), "mse", compile=False, limit_train_batches=3)
        x = kiln.randn(20, 4)
        data = DataLoader(TensorDataset(x, x[:, :2]), 2, shuffle=True)
        return t.fit(data, epochs=epochs, verbose=0, **options)["loss"]

    whole = fit(4)
    first = fit(2, callbacks=[ModelCheckpoint(tmp_path)])
    assert fit(4, resume=tmp_path) == whole
    assert first == whole[:2]


NAMES = [
    "on_fit_start",
    "on_train_start",
    "on_train_epoch_start",
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
    "on_train_epoch_end",
    "on_train_end",
    "on_fit_end",
    "on_validation_start",
    "on_validation_epoch_start",
    "on_validation_batch_start",
    "on_validation_batch_end",
    "on_validation_epoch_end",
    "on_validation_end",
    "on_test_start",
    "on_test_batch_start",
    "on_test_batch_end",
    "on_test_end",
    "on_predict_start",
    "on_predict_batch_start",
    "on_predict_batch_end",
    "on_predict_end",
]


def test_hooks_in_lightnings_order():
    calls = []
    hooks = {n: lambda self, *args, n=n: calls.append((n, len(args))) for n in NAMES}
    with_hooks = type("WithHooks", (Net,), {**hooks, "predict_step": lambda self, batch: self.l(batch[0])})  # fmt: skip
    t = Trainer(with_hooks(), compile=False, limit_train_batches=1, limit_val_batches=1)
    t.fit(TRAIN, VAL, verbose=0)
    assert calls == [
        ("on_fit_start", 0), ("on_train_start", 0), ("on_train_epoch_start", 0), ("on_train_batch_start", 2), ("on_before_zero_grad", 1),
        ("on_before_backward", 1), ("on_after_backward", 0), ("on_before_optimizer_step", 1), ("on_train_batch_end", 3),
        ("on_validation_start", 0), ("on_validation_epoch_start", 0), ("on_validation_batch_start", 2), ("on_validation_batch_end", 3),
        ("on_validation_epoch_end", 0), ("on_validation_end", 0), ("on_train_epoch_end", 0), ("on_train_end", 0), ("on_fit_end", 0),
    ]  # fmt: skip
    calls.clear()
    t.test(DataLoader(DATA, 10))
    t.predict(DataLoader(DATA, 20))
    batches = [("on_test_batch_start", 2), ("on_test_batch_end", 3)] * 2
    assert calls == [
        ("on_test_start", 0), *batches, ("on_test_end", 0), ("on_predict_start", 0), ("on_predict_batch_start", 2),
        ("on_predict_batch_end", 3), ("on_predict_end", 0),
    ]  # fmt: skip


@pytest.mark.parametrize("compiled", [False, True])
def test_what_is_logged_by_step_and_by_epoch(compiled):
    kiln.manual_seed(0)
    m = Net(rate=0.05, note="seen by nobody")
    assert m.hparams == {"width": 4, "rate": 0.05}
    seen = []

    class See(Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(float(self.trainer.last["b"]))

    h = Trainer(m, compile=compiled).fit(TRAIN, VAL, verbose=0, callbacks=[See()])
    assert set(h.keys()) == {"loss", "a_step", "a_epoch", "b", "val_loss"}
    assert len(set(seen)) > 5
    assert (h["b"][0], h["a_step"][0]) == (seen[-1], seen[-1])
    assert h["a_epoch"][0] == h["loss"][0] == pytest.approx(sum(seen) / len(seen))
    assert m.lr_schedulers() is None
    assert str(m.device) == "cpu"


def test_data_modules_and_the_test_step():
    class Data:
        def prepare_data(self):
            self.told = ["prepared"]

        def setup(self, stage):
            self.told.append(stage)

        def train_dataloader(self):
            return TRAIN

        def val_dataloader(self):
            return VAL

        def test_dataloader(self):
            return DataLoader(DATA, 5)

        def predict_dataloader(self):
            return DataLoader(DATA, 20)

    class Tested(Net):
        def test_step(self, batch, batch_idx):
            self.log("test_count", float(len(batch[0])), reduce_fx="sum")

        def predict_step(self, batch):
            return self.l(batch[0])

    data = Data()
    t = Trainer(Tested(), compile=False)
    assert "val_loss" in t.fit(data, verbose=0)
    assert data.told == ["prepared", "fit"]
    assert t.validate(data).keys() == {"loss"}
    assert t.test(data) == {"test_count": 20.0}
    assert t.predict(data).shape == (20, 4)
