"""Keras's face: names, defaults and forms of `compile`, `fit`, `evaluate` and `predict`; losses against formulas."""

import copy
import inspect

import numpy as np
import pytest

import kiln
from kiln import keras, nn
from kiln.keras import losses

R = np.random.default_rng(0)
X = R.normal(size=(40, 4))
Y = (X[:, 0] + X[:, 1] > 0).astype(np.int64)


def model(**options):
    kiln.manual_seed(0)
    m = keras.Sequential([nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2), nn.Softmax(-1)])
    options.setdefault("optimizer", "adam")
    options.setdefault("loss", "sparse_categorical_crossentropy")
    m.compile(**{"metrics": ["accuracy"], "run_eagerly": True, **options})
    return m


def test_fit_evaluate_predict(capsys):
    m = model(run_eagerly=False)
    h = m.fit(X, Y, epochs=3, batch_size=16, validation_split=0.25, verbose=2)
    assert list(h.history) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    assert h.epoch == [0, 1, 2]
    assert capsys.readouterr().out.count("epoch") == 3
    found = m.evaluate(X, Y, verbose=0)
    assert m.metrics_names == ["loss", "accuracy"]
    assert m.evaluate(X, Y, verbose=0, return_dict=True) == dict(zip(m.metrics_names, found, strict=True))  # fmt: skip
    p = m.predict(X, verbose=0)
    assert isinstance(p, np.ndarray)
    assert p.shape == (40, 2)
    assert (p.argmax(1) == Y).mean() == pytest.approx(found[1])
    assert m.fit(X, Y, initial_epoch=1, epochs=3, verbose=0).epoch == [1, 2]
    assert m.fit(X, Y, verbose=0).epoch == [0]
    assert isinstance(model(metrics=None).evaluate(X, Y, verbose=0), float)


def test_signatures_are_keras():
    """Names and defaults of Keras 3.11, in its order; what Kiln adds comes last."""
    wanted = {
        "compile": "optimizer='rmsprop', loss=None, loss_weights=None, metrics=None, weighted_metrics=None, "
        "run_eagerly=False, steps_per_execution=1, jit_compile='auto', auto_scale_loss=True",
        "fit": "x=None, y=None, batch_size=None, epochs=1, verbose='auto', callbacks=None, validation_split=0.0, "
        "validation_data=None, shuffle=True, class_weight=None, sample_weight=None, initial_epoch=0, "
        "steps_per_epoch=None, validation_steps=None, validation_batch_size=None, validation_freq=1",
        "evaluate": "x=None, y=None, batch_size=None, verbose='auto', sample_weight=None, steps=None, "
        "callbacks=None, return_dict=False",
        "predict": "x, batch_size=None, verbose='auto', steps=None, callbacks=None",
        "train_on_batch": "x, y=None, sample_weight=None, class_weight=None, return_dict=False",
        "test_on_batch": "x, y=None, sample_weight=None, return_dict=False",
    }
    for name, text in wanted.items():
        ours = list(inspect.signature(getattr(keras.Model, name)).parameters.values())[1:]
        told = ", ".join(p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in ours)  # fmt: skip
        assert told.startswith(text)


def test_split_is_the_end_of_the_arrays():
    m = model()
    w = np.ones(40)
    w[30:] = 0.0
    h = m.fit(X, Y, sample_weight=w, validation_split=0.25, shuffle=True, verbose=0)
    assert h["val_loss"] == [0.0]
    assert m.fit(X, Y, validation_split=0.5, validation_data=(X[:2], Y[:2], w[30:32]), verbose=0)["val_loss"] == [0.0]  # fmt: skip
    with pytest.raises(ValueError, match="validation_split"):
        m.fit([(kiln.zeros(2, 4), kiln.zeros(2).long())] * 2, validation_split=0.5, verbose=0)
    with pytest.raises(ValueError, match="too few"):
        m.fit(X[:1], Y[:1], validation_split=0.5, verbose=0)


def test_validation_data_with_weights_and_class_weight():
    m = model()
    h = m.fit(X, Y, validation_data=(X, Y, np.zeros(40)), class_weight={0: 1.0, 1: 3.0}, verbose=0)
    assert h["val_loss"] == [0.0]
    w = (Y == 0).astype(np.float32)
    both = model(metrics=["accuracy"], weighted_metrics=["recall", "acc"])
    assert both.metrics_names == ["loss", "accuracy", "recall", "acc"]
    told = both.evaluate(X, Y, sample_weight=w, verbose=0, return_dict=True)
    right = both.predict(X, verbose=0).argmax(1) == Y
    assert told["accuracy"] == pytest.approx(right.mean())
    assert told["acc"] == pytest.approx(right[Y == 0].mean())


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "adam", "adamw", "adamax", "nadam", "adagrad", "adadelta", "lion", "Adam"])  # fmt: skip
def test_optimizers_by_name(optimizer):
    m = model(optimizer=optimizer)
    m.fit(X, Y, verbose=0)
    assert type(m.optimizer).__name__.lower() == optimizer.lower()


def keras_steps(kind, learning_rate, grads, m=0.0, epsilon=1e-7, nesterov=False, decay=0.0):
    """What Keras 3.15 makes of a parameter 1.0 with these gradients, by its formulas."""
    p, v, s = 1.0, 0.0, 0.0
    for i, g in enumerate(grads):
        lr = learning_rate(i)
        p -= p * decay * lr
        if kind == "SGD":
            v = m * v - lr * g
            p += m * v - lr * g if nesterov else v
        elif kind == "RMSprop":
            s = 0.9 * s + 0.1 * g * g
            v = m * v + lr * g / np.sqrt(s + epsilon)
            p -= v
        else:
            p -= lr * np.sign(0.9 * v + 0.1 * g)
            v = 0.99 * v + 0.01 * g
    return p


@pytest.mark.parametrize("compiled", [True, False])
def test_steps_are_keras_steps(compiled):
    """The momentum holds steps, epsilon is under the root, weight decay is decoupled, rates go by the schedule."""
    rate = keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)
    grads = [1e-3, -2e-3, 5e-4, 1e-3]
    for kind, options, wanted in [
        ("SGD", {"momentum": 0.9}, {"m": 0.9}), ("SGD", {"momentum": 0.9, "nesterov": True}, {"m": 0.9, "nesterov": True}),
        ("SGD", {"weight_decay": 0.2}, {"decay": 0.2}), ("RMSprop", {"epsilon": 1e-5}, {"epsilon": 1e-5}),
        ("RMSprop", {"momentum": 0.5, "weight_decay": 0.1}, {"m": 0.5, "decay": 0.1}), ("Lion", {}, {}),
    ]:  # fmt: skip
        m = keras.Model(nn.Linear(1, 1, bias=False))
        m.set_weights([[[1.0]]])
        optimizer = getattr(keras.optimizers, kind)(learning_rate=rate, **options)
        m.compile(optimizer, lambda y_true, y_pred: y_pred, run_eagerly=not compiled)
        m.fit(np.array(grads)[:, None], np.zeros(4), batch_size=1, shuffle=False, verbose=0)
        wanted = keras_steps(kind, rate, grads, **wanted)
        assert m.get_weights()[0].item() == pytest.approx(wanted, rel=1e-5)
        assert optimizer.learning_rate == pytest.approx(0.025)
        assert optimizer.iterations == 4


def test_learning_rate_schedules():
    s = keras.optimizers.schedules
    for schedule, wanted in [
        (s.ExponentialDecay(0.1, 3, 0.5, staircase=True), [0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.025]),
        (s.CosineDecay(0.1, 8, alpha=0.1), [0.1, 0.09657, 0.08682, 0.07222, 0.055, 0.03778, 0.02318]),
        (s.CosineDecay(0.01, 8, warmup_target=0.1, warmup_steps=3), [0.01, 0.04, 0.07, 0.1, 0.09619, 0.08536, 0.06913]),
        (s.CosineDecayRestarts(0.1, 3), [0.1, 0.075, 0.025, 0.1, 0.0933, 0.075, 0.05]),
        (s.PiecewiseConstantDecay([2, 5], [0.1, 0.05, 0.01]), [0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.01]),
        (s.PolynomialDecay(0.1, 5, 0.01, power=2.0), [0.1, 0.0676, 0.0424, 0.0244, 0.0136, 0.01, 0.01]),
        (s.PolynomialDecay(0.1, 3, 0.01, cycle=True), [0.1, 0.07, 0.04, 0.01, 0.04, 0.025, 0.01]),
        (s.InverseTimeDecay(0.1, 3, 0.5), [0.1, 0.08571, 0.075, 0.06667, 0.06, 0.05455, 0.05]),
    ]:  # fmt: skip
        assert [schedule(i) for i in range(7)] == pytest.approx(wanted, abs=1e-5)
    m = model(optimizer=keras.optimizers.SGD(s.PiecewiseConstantDecay([0, 1], [0.3, 0.2, 0.1])))
    m.train_on_batch(X, Y)
    m.train_on_batch(X, Y)
    assert m.trainer.optimizer.param_groups[0]["lr"] == 0.2
    with pytest.raises(TypeError, match="schedule"):
        m.optimizer.learning_rate = 0.5


def test_learning_rate_is_settable():
    mine = keras.optimizers.Adam(0.5)
    m = model(optimizer=mine)
    mine.learning_rate = 0.25
    assert m.optimizer is mine
    assert m.trainer.optimizer.param_groups[0]["lr"] == 0.25

    class Halve(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.optimizer.learning_rate = float(self.model.optimizer.learning_rate) / 2

    m.fit(X, Y, epochs=2, verbose=0, callbacks=[Halve()])
    assert m.trainer.optimizer.param_groups[0]["lr"] == mine.learning_rate == 0.0625
    with pytest.raises(AttributeError, match="before training"):
        _ = keras.optimizers.SGD().param_groups
    with pytest.raises(TypeError, match="no such option"):
        keras.optimizers.SGD(momentun=0.9)
    with pytest.raises(ValueError, match="one way"):
        keras.optimizers.SGD(clipnorm=1.0, clipvalue=1.0)


def test_averages_and_accumulation():
    """Keras's average begins with the first step's parameters; validation sees the parameters themselves."""
    seen = []

    class See(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(self.model.get_weights()[0])

    m = keras.Model(nn.Linear(4, 1))
    m.compile(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5), "mse", run_eagerly=True)
    m.fit(X, X[:, :1], batch_size=10, verbose=0, callbacks=[See()])
    average = seen[0]
    for w in seen[1:]:
        average = 0.5 * average + 0.5 * w
    np.testing.assert_allclose(m.get_weights()[0], average, rtol=1e-5)
    m.compile(keras.optimizers.SGD(gradient_accumulation_steps=2), "mse", run_eagerly=True)
    m.fit(X, X[:, :1], batch_size=10, verbose=0)
    assert m.optimizer.iterations == 2


def test_optimizers_options():
    m = model(optimizer=keras.optimizers.Adam(learning_rate=0.01, beta_1=0.8, global_clipnorm=1.0))
    m.fit(X, Y, verbose=0)
    group = m.optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["eps"]) == (0.01, (0.8, 0.999), 1e-7)
    assert type(m.trainer.running.inside()[0]).__name__ == "GradientClipping"
    for clip in ({"clipnorm": 0.1}, {"clipvalue": 0.1}):
        model(optimizer=keras.optimizers.SGD(**clip)).fit(X, Y, verbose=0)
    assert model(optimizer=keras.optimizers.Adam(weight_decay=0.1)).optimizer.param_groups[0]["weight_decay"] == 0.1  # fmt: skip
    net = nn.Linear(4, 2)
    own = kiln.optim.SGD(net.parameters(), lr=0.1)
    wrapped = keras.Model(net)
    wrapped.compile(own, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    assert wrapped.optimizer is own
    with pytest.raises(ValueError, match="no optimizer has this name"):
        model(optimizer="sdg")


def test_losses_are_keras_formulas():
    p = R.random((6, 3)).astype(np.float32)
    p /= p.sum(1, keepdims=True)
    z = np.log(p) + 1.5
    labels = np.array([0, 1, 2, 2, 1, 0])
    hot = np.eye(3, dtype=np.float32)[labels]
    ce = -np.log(p[np.arange(6), labels])
    for loss, out, target in [
        ("sparse_categorical_crossentropy", p, labels), ("categorical_crossentropy", p, hot),
        ("crossentropy", p, labels), ("ce", p, hot),
        (losses.SparseCategoricalCrossentropy(from_logits=True), z, labels),
        (losses.SparseCategoricalCrossentropy(from_logits=True), z, labels[:, None]),
        (losses.CategoricalCrossentropy(from_logits=True), z, hot),
        (losses.CategoricalCrossentropy(axis=0), p.T, hot.T),
    ]:  # fmt: skip
        fn = losses.get(loss)
        np.testing.assert_allclose(fn(target, out).item(), ce.mean(), rtol=1e-5)
        np.testing.assert_allclose(fn.call(kiln.tensor(target), kiln.tensor(out)), ce, rtol=1e-5)
    q, b = R.random((6, 1)).astype(np.float32), (labels > 0).astype(np.int64)
    bce = -(b * np.log(q[:, 0]) + (1 - b) * np.log(1 - q[:, 0]))
    assert losses.get("BCE")(b, q).item() == pytest.approx(bce.mean(), rel=1e-5)
    logits = losses.BinaryCrossentropy(from_logits=True)
    assert logits(b, np.log(q / (1 - q))).item() == pytest.approx(bce.mean(), rel=1e-4)
    pt = np.where(b, q[:, 0], 1 - q[:, 0])
    assert losses.BinaryFocalCrossentropy()(b, q).item() == pytest.approx(((1 - pt) ** 2 * bce).mean(), rel=1e-4)  # fmt: skip
    focal = 0.25 * (1 - p[np.arange(6), labels]) ** 2 * ce
    assert losses.get("categorical_focal_crossentropy")(hot, p).item() == pytest.approx(focal.mean(), rel=1e-4)  # fmt: skip
    a, c = R.normal(size=(6, 2)).astype(np.float32), R.normal(size=(6, 2)).astype(np.float32)
    s = np.sign(c)
    for name, want in {
        "mse": (a - c) ** 2, "mae": abs(a - c), "log_cosh": np.log(np.cosh(a - c)),
        "mape": 100 * abs(a - c) / abs(c), "huber": np.where(abs(a - c) < 1, 0.5 * (a - c) ** 2, abs(a - c) - 0.5),
        "poisson": np.exp(a) - c * a, "hinge": np.maximum(1 - s * a, 0), "squared_hinge": np.maximum(1 - s * a, 0) ** 2,
        "cosine_similarity": -2 * a * c / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(c, axis=1)[:, None],
        "dice": 1 - 2 * (a * c).sum() / (a.sum() + c.sum()), "tversky": 1 - 2 * (a * c).sum() / (a.sum() + c.sum()),
    }.items():  # fmt: skip
        out, target = (np.exp(a), c) if name == "poisson" else (a, s if "hinge" in name else c)
        np.testing.assert_allclose(losses.get(name)(target, out).item(), want.mean(), rtol=1e-4)
    assert losses.Hinge()([[0.0], [1.0]], [[0.5], [0.5]]).item() == 1.0  # zeros stand for -1
    kl = (hot * 0.8 + 0.1) / (hot * 0.8 + 0.1).sum(1, keepdims=True)
    assert losses.get("kl_divergence")(kl, p).item() == pytest.approx((kl * np.log(kl / p)).sum(1).mean(), rel=1e-4)  # fmt: skip
    unit = p / np.linalg.norm(p, axis=1, keepdims=True)
    d = 1 - unit @ unit.T
    same = labels[:, None] == labels
    pull = (80 * (0.4 + d) * (d - 0.4))[same & ~np.eye(6, dtype=bool)]  # one partner each
    push = (np.exp(80 * (1.4 - d) * (0.6 - d)) * ~same).sum(1)
    circle = np.logaddexp(0, pull + np.log(push)).mean()
    assert losses.Circle()(labels, unit).item() == pytest.approx(circle, rel=1e-3)
    for name in losses.BY_NAME:
        assert callable(losses.get(name))
    assert losses.mean_squared_error(c, a).shape == (6,)
    assert losses.huber(c, a, delta=0.5).shape == (6,)
    with pytest.raises(ValueError, match="no loss has this name"):
        losses.get("nope")
    with pytest.raises(ValueError, match="no such reduction"):
        losses.MeanSquaredError(reduction="average")


def test_reductions_weights_and_what_does_not_count():
    """Keras 3.15: the weighted sum by the number of samples, of which those of `ignore_class` are none."""
    y, p, w = np.array([[0.0], [0.0], [0.0]]), np.array([[1.0], [2.0], [3.0]]), np.array([1.0, 0.0, 2.0])  # fmt: skip
    for reduction, plain, weighted in [
        ("sum_over_batch_size", 14 / 3, 19 / 3), ("mean", 14 / 3, 19 / 3), ("sum", 14, 19), ("mean_with_sample_weight", 14 / 3, 19 / 3),
        ("none", [1, 4, 9], [1, 0, 18]), (None, [1, 4, 9], [1, 0, 18]),
    ]:  # fmt: skip
        loss = losses.MeanSquaredError(reduction=reduction)
        np.testing.assert_allclose(loss(y, p), plain)
        np.testing.assert_allclose(loss(y, p, w), weighted)
    halves = losses.MeanSquaredError(reduction="mean_with_sample_weight")
    assert halves(y, p, w / 2).item() == pytest.approx(19 / 3)
    shares = np.array([[0.5, 0.5], [0.25, 0.75], [0.9, 0.1]])
    ignoring = losses.SparseCategoricalCrossentropy(ignore_class=1)
    assert ignoring([0, 1, 0], shares).item() == pytest.approx(-np.log(0.45) / 2)
    assert ignoring([0, 1, 0], shares, w).item() == pytest.approx(-np.log(0.5 * 0.81) / 2)
    assert ignoring([1, 1, 1], shares).item() == 0.0


def test_functions_take_true_then_predicted():
    """Functions of the user's are Keras's; modules and functions of Kiln's keep PyTorch's order."""
    seen = []

    def loss(y_true, y_pred):
        seen.append((y_true.shape, y_pred.requires_grad))
        return (y_true - 2 * y_pred) ** 2

    class Mine(losses.Loss):
        def call(self, y_true, y_pred):
            return (y_true - 2 * y_pred) ** 2

    net = nn.Linear(4, 1)
    y, w = X[:, :1], np.arange(40) / 20
    out = net(kiln.tensor(X).float()).detach().numpy()
    found = []
    for given in (loss, Mine(), kiln.nn.BCEWithLogitsLoss()):
        m = keras.Model(net)
        m.compile("sgd", given, run_eagerly=True)
        found += [m.evaluate(X, Y[:, None].astype(np.float32) if given is not loss else y, verbose=0, sample_weight=s) for s in (None, w)]  # fmt: skip
    each = (y - 2 * out) ** 2
    assert found[:2] == pytest.approx([each.mean(), (each[:, 0] * w).mean()], rel=1e-5)
    each = (Y[:, None] - 2 * out) ** 2
    assert found[2:4] == pytest.approx([each.mean(), (each[:, 0] * w).mean()], rel=1e-5)
    each = np.log1p(np.exp(out)) - Y[:, None] * out
    assert found[4:] == pytest.approx([each.mean(), (each[:, 0] * w).mean()], rel=1e-5)
    assert set(seen) == {((32, 1), False), ((8, 1), False)}


def test_class_weight_counts_in_training_alone():
    m = model(optimizer=keras.optimizers.SGD(0.0), weighted_metrics=["acc"])
    h = m.fit(X, Y, validation_data=(X, Y), class_weight={0: 1.0, 1: 0.0}, verbose=0)
    plain = m.evaluate(X, Y, verbose=0, return_dict=True)
    assert {k: h["val_" + k][0] for k in plain} == pytest.approx(plain)
    right = m.predict(X, verbose=0).argmax(1) == Y
    assert h["acc"][0] == pytest.approx(right[Y == 0].mean())
    assert plain["acc"] == pytest.approx(right.mean())
    again = m.fit(X, Y, epochs=5, validation_data=(X, Y), validation_freq=[1, 4], verbose=0)
    assert len(again["val_loss"]) == 2


def test_batches_of_arrays_weights_and_data_sets():
    """(x, y) and (x, y, sample_weight) of arrays from generators, loaders and PyDatasets."""
    w = np.arange(40) / 20

    class Data(keras.utils.PyDataset):
        passes = 0

        def __len__(self):
            return 4

        def __getitem__(self, i):
            s = slice(10 * i, 10 * i + 10)
            return X[s], Y[s], w[s]

        def on_epoch_end(self):
            self.passes += 1

    m = model(optimizer=keras.optimizers.SGD(0.0))
    wanted = m.evaluate(X, Y, sample_weight=w, verbose=0)[0]
    data = Data()
    assert m.evaluate(data, verbose=0)[0] == pytest.approx(wanted, rel=1e-5)
    assert m.fit(data, epochs=2, validation_data=data, verbose=0)["val_loss"] == pytest.approx([wanted] * 2, rel=1e-5)  # fmt: skip
    assert data.passes == 5
    batches = (data[i] for i in range(4))
    assert m.fit(batches, verbose=0)["loss"] == pytest.approx([wanted], rel=1e-5)
    endless = (data[i % 4] for i in range(99))
    again = m.fit(X, Y, epochs=2, validation_data=endless, validation_steps=4, verbose=0)
    assert again["val_loss"] == pytest.approx([wanted] * 2, rel=1e-5)
    np.testing.assert_allclose(m.predict(data, verbose=0), m.predict(X, verbose=0), rtol=1e-5)
    loader = kiln.data.DataLoader([(X[i].astype(np.float32), Y[i], w[i]) for i in range(40)], 10)
    assert m.evaluate(loader, verbose=0)[0] == pytest.approx(wanted, rel=1e-5)
    np.testing.assert_array_equal(keras.utils.to_categorical([[0], [2]]), [[1, 0, 0], [0, 0, 1]])


def test_metrics_are_keras_metrics():
    """Keys are names as given; names of losses are metrics, too; values as in Keras 3.15."""
    k = keras.metrics
    p = R.random((9, 3)).astype(np.float32)
    labels = R.integers(0, 3, 9)
    hot, w = keras.utils.to_categorical(labels, 3), R.random(9).astype(np.float32)
    for metric, y, each in [
        (k.SparseCategoricalAccuracy(), labels, labels == p.argmax(1)), (k.CategoricalAccuracy(), hot, labels == p.argmax(1)),
        (k.SparseTopKCategoricalAccuracy(k=2), labels[:, None], labels != p.argmin(1)),
        (k.TopKCategoricalAccuracy(k=2), hot, labels != p.argmin(1)),
        (k.BinaryAccuracy(threshold=0.3), hot, ((p > 0.3) == hot).mean(1)),
        (k.MeanAbsolutePercentageError(), hot + 1, 100 * (abs(p - hot - 1) / (hot + 1)).mean(1)),
        (k.CosineSimilarity(), hot, p[range(9), labels] / np.linalg.norm(p, axis=1)),
        (k.MeanMetricWrapper(lambda y_true, y_pred: (y_true - y_pred) ** 2), hot, ((hot - p) ** 2).mean(1)),
        (k.BinaryCrossentropy(from_logits=True), hot, (np.log1p(np.exp(p)) - hot * p).mean(1)),
    ]:  # fmt: skip
        for weight, wanted in ((None, each.mean()), (w, (each * w).sum() / w.sum())):
            metric.reset_state()
            for s in (slice(0, 4), slice(4, None)):
                metric.update_state(y[s], p[s], None if weight is None else weight[s])
            assert metric.result().item() == pytest.approx(wanted, rel=1e-5)
    found = k.Precision()
    found.update_state(hot, p)
    assert found.result().item() == pytest.approx(hot[p > 0.5].mean())
    m = keras.Sequential([nn.Linear(4, 1), nn.Sigmoid()])

    def mine(y_true, y_pred):
        return (y_true - 2 * y_pred) ** 2

    m.compile("sgd", "bce", metrics=["acc", "AUC", "Precision", "MAPE", "binary_crossentropy", mine], run_eagerly=True)  # fmt: skip
    told = m.evaluate(X, Y, verbose=0, return_dict=True)
    assert list(told) == ["loss", "acc", "AUC", "Precision", "MAPE", "binary_crossentropy", "mine"]
    assert told["binary_crossentropy"] == pytest.approx(told["loss"], rel=1e-5)
    assert told["mine"] == pytest.approx(((Y - 2 * m.predict(X, verbose=0)[:, 0]) ** 2).mean(), rel=1e-5)  # fmt: skip


def test_binary_scores_and_targets_of_one_column():
    kiln.manual_seed(0)
    m = keras.Sequential([nn.Linear(4, 1), nn.Sigmoid()])
    m.compile("adam", "binary_crossentropy", metrics=["accuracy", "AUC", "binary_accuracy"], run_eagerly=True)  # fmt: skip
    h = m.fit(X, Y, verbose=0)
    assert list(h.history) == ["loss", "accuracy", "AUC", "binary_accuracy"]
    out = m.predict(X, verbose=0)
    assert m.evaluate(X, Y, verbose=0)[1] == pytest.approx(((out[:, 0] > 0.5) == Y).mean())
    sparse = model()
    assert sparse.evaluate(X, Y[:, None], verbose=0) == sparse.evaluate(X, Y, verbose=0)


def test_several_inputs_and_outputs_by_name():
    class Two(keras.Model):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 2), nn.Linear(4, 1)

        def call(self, left, right):
            return {"kind": self.a(left).softmax(-1), "size": self.b(right)}

    m = Two()
    m.compile(
        "adam", {"kind": "sparse_categorical_crossentropy", "size": "mse"}, loss_weights={"kind": 2.0},
        metrics={"kind": ["accuracy"]}, run_eagerly=True,
    )  # fmt: skip
    y = {"kind": Y, "size": X[:, :1]}
    h = m.fit([X, X], y, validation_split=0.25, verbose=0)
    assert set(h.history) == {p + n for p in ("", "val_") for n in ("loss", "kind_loss", "size_loss", "kind_accuracy")}  # fmt: skip
    assert m.predict([X, X], verbose=0)["size"].shape == (40, 1)


def test_batches_and_steps():
    m = model()
    assert len(m.train_on_batch(X, Y)) == 2
    assert m.train_on_batch(X, Y, return_dict=True).keys() == {"loss", "accuracy"}
    assert m.test_on_batch(X, Y) == pytest.approx(m.evaluate(X, Y, verbose=0))
    np.testing.assert_array_equal(m.predict_on_batch(X), m.predict(X, batch_size=40, verbose=0))

    def endless():
        while True:
            yield kiln.tensor(X[:8]).float(), kiln.tensor(Y[:8])

    m.fit(endless(), steps_per_epoch=3, epochs=2, verbose=0)
    assert m.trainer.step == 8


def test_weights(tmp_path):
    m, other = model(), model()
    m.fit(X, Y, verbose=0)
    m.save_weights(tmp_path / "w.kiln")
    other.load_weights(tmp_path / "w.kiln")
    np.testing.assert_array_equal(m.predict(X, verbose=0), other.predict(X, verbose=0))
    twin = model()
    twin.set_weights(m.get_weights())
    np.testing.assert_array_equal(m.predict(X, verbose=0), twin.predict(X, verbose=0))
    assert m.count_params() == 4 * 8 + 8 + 8 * 2 + 2
    with pytest.raises(ValueError, match="not those of this model"):
        m.set_weights(m.get_weights()[:-1])
    with pytest.raises(ValueError, match="no format"):
        m.save(tmp_path / "w")
    with pytest.raises(ValueError, match="there already"):
        m.save_weights(tmp_path / "w.kiln", overwrite=False)
    m.fit(X, Y, verbose=0, callbacks=[keras.callbacks.ModelCheckpoint(tmp_path / "c.kiln")])
    other.load_weights(tmp_path / "c.kiln")
    np.testing.assert_array_equal(m.predict(X, verbose=0), other.predict(X, verbose=0))


def test_resuming(tmp_path):
    whole = model()
    kiln.manual_seed(3)
    a = whole.fit(X, Y, epochs=4, verbose=0)
    first = model()
    kiln.manual_seed(3)
    first.fit(X, Y, epochs=2, verbose=0, callbacks=[keras.callbacks.ModelCheckpoint(tmp_path)])
    b = model().fit(X, Y, epochs=4, verbose=0, resume=tmp_path)
    assert a.history == b.history


def test_summary(capsys):
    m = model()
    with pytest.raises(ValueError, match="not known yet"):
        keras.Sequential([nn.Linear(4, 2)]).summary()
    m.summary((8, 4))
    assert "Linear" in capsys.readouterr().out
    m.fit(X, Y, verbose=0)
    m.summary()
    assert "58" in capsys.readouterr().out  # parameters


def test_a_model_is_a_module():
    m = model()
    m.fit(X, Y, verbose=0)
    twin = copy.deepcopy(m)
    np.testing.assert_allclose(m.predict(X, verbose=0), twin.predict(X, verbose=0), rtol=1e-5)
    with pytest.raises(RuntimeError, match="not compiled"):
        twin.fit(X, Y)
    grown = keras.Sequential(name="grown")
    grown.add(nn.Linear(4, 3))
    grown.add(nn.ReLU())
    assert [type(x).__name__ for x in grown.layers] == ["Linear", "ReLU"]
    grown.pop(1)
    assert len(grown.layers) == 1
    assert list(m.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    assert len(m.fit(X, Y, epochs=5, verbose=0, callbacks=[Stop()]).epoch) == 1


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: keras.Sequential([nn.Linear(4, 2)]).fit(X, Y), RuntimeError),
        (lambda: model(loss=None).fit(X, Y), ValueError),
        (lambda: model(loss="nope"), ValueError),
        (lambda: model(metrics=["nope"]), ValueError),
        (lambda: model().fit(X), TypeError),
        (lambda: keras.Model(inputs=1, outputs=2), TypeError),
        (lambda: keras.Model().forward(1), RuntimeError),
    ],
)
def test_errors_in_three_lines(make, error):
    with pytest.raises(error) as e:
        make()
    assert str(e.value).startswith("[")
