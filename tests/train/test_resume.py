"""Checkpoints: training goes on bit for bit, files survive, errors reach the trainer."""

import random
import warnings

import numpy as np
import pytest
from tests.turns import in_turn

import kiln
from kiln import nn
from kiln.data import DataLoader, Dataset, IterableDataset, Pipeline, TensorDataset
from kiln.errors import KilnWarning
from kiln.io.files import KilnFileError
from kiln.optim.lr_scheduler import MultiStepLR
from kiln.train import (
    Callback,
    EarlyStopping,
    ModelCheckpoint,
    OneCycle,
    ReduceLROnPlateau,
    Schedule,
    Trainer,
)

R = np.random.default_rng(0)
X = R.normal(size=(70, 8)).astype(np.float32)
Y = (X[:, 0] + X[:, 1] > 0).astype(np.int64)


class Die(Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_begin(self, batch, logs):
        if self.trainer.step == self.step:
            raise InterruptedError("dead")


def make(seed=1, **options):
    kiln.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(8, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.3), nn.Linear(12, 2)
    )
    return Trainer(model, metrics=["accuracy"], **{"compile": False, **options})


def bits(trainer):
    return {
        k: v.numpy().tobytes() for k, v in trainer.model.state_dict().items()
    }, trainer.history.history


def check(tmp_path, step, data=lambda: (X, Y), callbacks=lambda: [], epochs=3, fit=None, **options):
    """Three trainings: whole, dying before `step`, and going on from its last checkpoint."""
    fit = {"val": (X[:20], Y[:20]), "epochs": epochs, "batch_size": 16, "verbose": 0, **(fit or {})}
    whole = make(**options)
    kiln.manual_seed(5)
    whole.fit(data(), callbacks=[*callbacks(), ModelCheckpoint(tmp_path / "a", save_freq=1)], **fit)
    kiln.manual_seed(5)
    random.seed(5)
    dying = make(**options)
    kiln.manual_seed(5)
    with pytest.raises(InterruptedError):
        dying.fit(data(), callbacks=[Die(step), *callbacks(), ModelCheckpoint(tmp_path / "b", save_freq=1)], **fit)  # fmt: skip
    resumed = make(seed=2, **options)
    resumed.fit(
        data(), callbacks=[*callbacks(), ModelCheckpoint(tmp_path / "b", save_freq=1)], resume=tmp_path / "b", **fit
    )  # fmt: skip
    assert bits(resumed) == bits(whole)
    assert (resumed.step, resumed.updates, resumed.epoch) == (whole.step, whole.updates, whole.epoch)  # fmt: skip
    return resumed


@in_turn("optimizer", ["adam", "sgd"], step=[1, 4, 5, 7, 14])
def test_goes_on_bit_for_bit(tmp_path, step, optimizer):
    check(tmp_path, step, optimizer=optimizer)


@in_turn("step", [4, 6, 9], always=[5])
def test_callbacks_accumulation_and_compiled_steps(tmp_path, step):
    def callbacks():
        return [
            Schedule(lambda o: MultiStepLR(o, [1, 3])), EarlyStopping(patience=9, restore_best_weights=True),
            ReduceLROnPlateau(patience=1),
        ]  # fmt: skip

    check(tmp_path, step, callbacks=callbacks, accumulate=3, compile=True)


def test_one_cycle(tmp_path):
    check(tmp_path, 8, callbacks=lambda: [OneCycle(0.1)])


class Stream(IterableDataset):
    def __iter__(self):
        for i in range(50):
            yield X[i] + np.float32(np.random.normal()), Y[i]


class Draws:
    """Batches in an order of NumPy's stream, with noise: no state but the streams."""

    def __iter__(self):
        for i in np.random.permutation(5):
            noise = np.float32(random.random())
            yield kiln.tensor(X[i * 10 : i * 10 + 10] + noise), kiln.tensor(Y[i * 10 : i * 10 + 10])


DATA = {
    "loader": lambda: DataLoader(TensorDataset(kiln.tensor(X), kiln.tensor(Y)), 16, shuffle=True),
    "workers": lambda: DataLoader(TensorDataset(kiln.tensor(X), kiln.tensor(Y)), 16, shuffle=True, num_workers=1),
    "iterable": lambda: DataLoader(Stream(), 16),
    "drawing": Draws,
    "pipeline": lambda: Pipeline([(X[i], Y[i]) for i in range(50)]).shuffle(20).batch(16).prefetch(2),
    "batches": lambda: [(kiln.tensor(X[:30]), kiln.tensor(Y[:30])), (kiln.tensor(X[30:]), kiln.tensor(Y[30:]))] * 2,
}  # fmt: skip


@in_turn("step", [3, 7], kind=DATA)
def test_places_of_all_kinds_of_data(tmp_path, kind, step):
    np.random.seed(0)
    random.seed(5)
    state = np.random.get_state()

    def begun():
        np.random.set_state(state)
        return DATA[kind]()

    random.seed(5)
    check(tmp_path, step, begun, fit={"batch_size": None})


@in_turn("step", [2, 8, 6], always=[3])
def test_steps_per_epoch_go_on_in_the_data(tmp_path, step):
    resumed = check(tmp_path, step, fit={"steps_per_epoch": 3})
    assert resumed.step == 9


def test_a_finished_training_has_nothing_left_to_do(tmp_path):
    a = make()
    a.fit((X, Y), epochs=2, verbose=0, callbacks=[ModelCheckpoint(tmp_path)])
    b = make(seed=2)
    b.fit((X, Y), epochs=2, verbose=0, resume=tmp_path)
    assert bits(a) == bits(b)
    longer = make(seed=3)
    longer.fit((X, Y), epochs=3, verbose=0, resume=tmp_path)
    assert longer.history.epoch == [0, 1, 2]


def test_an_empty_folder_begins_anew_and_a_missing_file_does_not(tmp_path):
    t = make()
    assert len(t.fit((X, Y), verbose=0, resume=tmp_path / "none").epoch) == 1
    with pytest.raises(FileNotFoundError):
        t.fit((X, Y), verbose=0, resume=tmp_path / "none.kiln")
    with pytest.raises(FileNotFoundError):
        t.fit((X, Y), verbose=0, resume=tmp_path / "none.ckpt")
    with pytest.raises(ValueError, match="files of its own"):
        ModelCheckpoint(tmp_path / "m.weights.h5")
    kiln.save({"weights": kiln.zeros(2)}, tmp_path / "w.kiln")
    with pytest.raises(ValueError, match="no checkpoint of a training"):
        t.fit((X, Y), verbose=0, resume=tmp_path / "w.kiln")


def test_a_damaged_newest_file_is_passed_over(tmp_path):
    t = make()
    t.fit((X, Y), epochs=3, verbose=0, callbacks=[ModelCheckpoint(tmp_path)])
    newest = tmp_path / "epoch-0003-step-00000009.kiln"
    whole = newest.read_bytes()
    for at in (len(whole) // 2, len(whole) - 3):
        newest.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(kiln.errors.KilnError, match=r"corrupt|truncated"):
            kiln.load(newest)
    again = make(seed=2)
    with pytest.warns(KilnWarning, match="passed over"):
        again.fit((X, Y), epochs=3, verbose=0, resume=tmp_path)
    assert bits(again) == bits(t)


def test_keeps_the_last_and_the_best(tmp_path):
    t = make()
    keeper = ModelCheckpoint(tmp_path, keep=2, monitor="val_accuracy")
    t.fit((X, Y), val=(X, Y), epochs=5, verbose=0, callbacks=[keeper])
    assert sorted(f.name for f in tmp_path.iterdir()) == [
        "best.kiln", "epoch-0004-step-00000012.kiln", "epoch-0005-step-00000015.kiln",
    ]  # fmt: skip
    best = make(seed=2)
    best.load_checkpoint(tmp_path / "best.kiln")
    assert best.evaluate((X, Y))["accuracy"] == pytest.approx(max(t.history["val_accuracy"]))
    assert keeper.best == max(t.history["val_accuracy"])


def test_names_weights_and_best_alone(tmp_path):
    t = make()
    name = "w-{epoch:02d}-{val_loss:.2f}.kiln"
    t.fit(
        (X, Y), val=(X, Y), epochs=2, verbose=0,
        callbacks=[
            ModelCheckpoint(tmp_path / name, save_weights_only=True),
            ModelCheckpoint(tmp_path / "top.kiln", save_best_only=True, monitor="loss"),
        ],
    )  # fmt: skip
    names = sorted(f.name for f in tmp_path.iterdir())
    assert names == ["top.kiln", *(f"w-0{i + 1}-{v:.2f}.kiln" for i, v in enumerate(t.history["val_loss"]))]  # fmt: skip
    t.model.load_state_dict(kiln.load(tmp_path / names[1]))
    with pytest.raises(ValueError, match="asks for what is not there"):
        t.fit((X, Y), verbose=0, callbacks=[ModelCheckpoint(tmp_path / "{nope}.kiln")])


def test_errors_of_the_writing_thread_reach_the_trainer(tmp_path):
    class Gone(Callback):
        def on_train_batch_end(self, batch, logs):
            if batch == 1:
                for f in (tmp_path / "c").iterdir():
                    f.unlink()
                (tmp_path / "c").rmdir()

    keeper = ModelCheckpoint(tmp_path / "c", save_freq=1)
    wait = Callback()
    wait.on_train_batch_begin = lambda batch, logs: keeper.saver.join()
    with pytest.raises(KilnFileError, match="can't write"):
        make().fit((X, Y), batch_size=16, verbose=0, callbacks=[wait, Gone(), keeper])


def test_a_checkpoint_holds_the_moment_it_was_taken(tmp_path):
    """The writing thread is held back until the weights have changed."""
    import threading

    from kiln.train.checkpoints import Saver
    from kiln.train.state import snapshot

    t = make()
    t.fit((X, Y), verbose=0)
    before = bits(t)[0]
    go, saver = threading.Event(), Saver()

    def write(taken):
        go.wait(10)
        taken.write(tmp_path / "s.kiln")

    saver.save(snapshot(t), write)
    t.fit((X, Y), verbose=0)
    go.set()
    saver.join()
    assert bits(t)[0] != before
    again = make(seed=2)
    again.load_checkpoint(tmp_path / "s.kiln")
    assert bits(again)[0] == before


def test_leftovers_of_killed_processes_go(tmp_path):
    draft = tmp_path / ".epoch-0001-step-00000001.kiln.abc.part"
    draft.write_bytes(b"half")
    make().fit((X, Y), verbose=0, callbacks=[ModelCheckpoint(tmp_path)])
    assert not draft.exists()


def test_lazy_models_resume(tmp_path):
    def lazy():
        return Trainer(nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(2)), compile=False, seed=1)  # fmt: skip

    a, b = lazy(), lazy()
    a.fit((X, Y), epochs=2, verbose=0)
    b.fit((X, Y), epochs=1, verbose=0, callbacks=[ModelCheckpoint(tmp_path)])
    c = lazy()
    c.fit((X, Y), epochs=2, verbose=0, resume=tmp_path)
    assert bits(a) == bits(c)


def test_other_data_is_refused(tmp_path):
    a = make()
    a.fit((X, Y), verbose=0, callbacks=[ModelCheckpoint(tmp_path)])
    with pytest.raises(ValueError, match="another kind of data"):
        make().fit([(kiln.tensor(X), kiln.tensor(Y))] * 2, verbose=0, resume=tmp_path, epochs=2)
    with pytest.raises(ValueError, match="batch_size"):
        make().fit((X, Y), batch_size=7, verbose=0, resume=tmp_path, epochs=2)


def test_a_wrong_batch_late_in_an_epoch(tmp_path):
    """At step 300: the error says where and which shapes; the checkpoint on disk is good."""

    def batches(wrong):
        for i in range(305):
            n = 9 if i == 299 and wrong else 8
            yield kiln.ones(4, n), kiln.zeros(4, dtype="int64")

    class Batches:
        def __init__(self, wrong):
            self.wrong = wrong

        def __iter__(self):
            return batches(self.wrong)

    keep = ModelCheckpoint(tmp_path, save_freq=30)
    t = make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeError) as e:
            t.fit(Batches(True), verbose=0, callbacks=[keep])
    text = str(e.value)
    assert text.count("\n") == 2
    assert "epoch 1, batch 300 (step 300 of all)" in text
    assert "(f32[4, 9], i64[4])" in text
    assert "before were (f32[4, 8], i64[4])" in text
    again = make(seed=2)
    again.fit(Batches(False), verbose=0, resume=tmp_path)
    assert again.step == 305


class WithOneWrong(Dataset):
    """Samples of which one is shorter than the others: the whole batch, or alone in it."""

    def __init__(self, wrong, batch, size=4):
        self.wrong = range(batch * size, batch * size + size) if wrong == "batch" else [batch * size + 2] if wrong else []  # fmt: skip

    def __len__(self):
        return 40

    def __getitem__(self, i):
        return (X[i, :5] if i in self.wrong else X[i]), Y[i]


@in_turn("workers,compiled", [(0, True), (2, True), (0, False)], wrong=["batch", "sample"])
def test_a_wrong_batch_of_a_loader(tmp_path, workers, compiled, wrong):
    def fit(t, wrong, **more):
        loader = DataLoader(WithOneWrong(wrong, 6), 4, num_workers=workers)
        t.fit(loader, verbose=0, callbacks=[ModelCheckpoint(tmp_path, save_freq=3)], **more)
        return {k: v.numpy().copy() for k, v in t.model.state_dict().items()}

    with pytest.raises(RuntimeError) as e:
        fit(make(compile=compiled), wrong)
    text = str(e.value)
    assert text.count("\n") == 2, text
    assert "epoch 1, batch 7 (step 7 of all)" in text
    assert "before were (f32[4, 8], i64[4])" in text
    assert "(f32[4, 5], i64[4])" in text if wrong == "batch" else "[5] at entry 2" in text
    resumed = fit(make(seed=2, compile=compiled), "", resume=tmp_path)
    for f in tmp_path.iterdir():
        f.unlink()
    for k, v in fit(make(compile=compiled), "").items():
        np.testing.assert_array_equal(v, resumed[k])


def test_validation_begins_anew_each_time():
    seen = []

    class Loss:
        __name__ = "loss"

        def __call__(self, output, target):
            if not kiln.is_grad_enabled():
                seen.append(target.tolist())
            return (output - target.unsqueeze(1)).square().mean()

    t = Trainer(nn.Linear(1, 1), loss=Loss(), compile=False)
    x = np.arange(6, dtype=np.float32)
    t.fit(
        (x[:, None], x), val=(x[:, None], x), epochs=2, batch_size=2, validation_steps=2, verbose=0
    )
    assert seen == [[0.0, 1.0], [2.0, 3.0]] * 2


def test_samplers_learn_the_epoch(tmp_path):
    from kiln.data import DistributedSampler

    def data():
        table = TensorDataset(kiln.tensor(X), kiln.tensor(Y))
        return DataLoader(table, 8, sampler=DistributedSampler(table, num_replicas=2, rank=0))

    resumed = check(tmp_path, 7, data, fit={"batch_size": None})
    assert resumed.feed.loader.sampler.epoch == 2
