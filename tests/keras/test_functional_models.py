"""Functional models, layers and steps of one's own, files in Keras's formats, metrics and utilities: what Keras 3.15.1 does."""

import json
import pickle

import numpy as np
import pytest

import kiln
from kiln import keras, nn
from kiln.keras import layers as L
from kiln.keras import ops

R = np.random.default_rng(0)
X, Y = R.normal(size=(32, 6)).astype(np.float32), R.normal(size=(32, 1)).astype(np.float32)


def two_inputs():
    a, b = keras.Input((6,), name="left"), keras.Input((6,), name="right")
    shared = L.Dense(4, activation="relu", name="shared")
    inner = keras.Sequential([keras.Input((4,)), L.Dense(3), L.BatchNormalization()], name="inner")
    x = L.Concatenate(name="both")([inner(shared(a)), inner(shared(b))])
    return keras.Model({"left": a, "right": b}, {"x": L.Dense(1, name="out")(x), "y": x * 2 + 1}, name="two")  # fmt: skip


def test_a_graph_of_shared_and_nested_layers(capsys, tmp_path):
    m = two_inputs()
    assert m.output_shape == [(None, 1), (None, 6)]
    assert m.count_params() == 28 + 15 + 12 + 7
    assert len(m.trainable_weights) == 8
    p = m.predict({"left": X, "right": X}, verbose=0)
    np.testing.assert_allclose(p["y"][:, :3], p["y"][:, 3:])
    shared, inner = m.get_layer("shared"), m.get_layer("inner")
    both = inner(shared(X)).detach().numpy()
    np.testing.assert_allclose(p["y"], np.concatenate([both, both], 1) * 2 + 1, rtol=1e-5)
    features = keras.Model(m.inputs, m.get_layer("both").output)
    np.testing.assert_allclose(features([X, X]).detach(), np.concatenate([both, both], 1), rtol=1e-6)  # fmt: skip
    m.summary(expand_nested=True)
    told = capsys.readouterr().out
    assert 'Model: "two"' in told
    assert "shared[0][0]" in told
    assert "Total params: 62" in told
    keras.utils.plot_model(m, tmp_path / "m.png", show_shapes=True)
    assert (tmp_path / "m.png").stat().st_size > 1000
    with pytest.raises(ValueError, match="called 2 times"):
        _ = shared.output
    with pytest.raises(ValueError, match="no such layer"):
        m.get_layer("nobody")
    with pytest.raises(ValueError, match="do not come from the inputs"):
        keras.Model(m.inputs[0], m.outputs[0])
    with pytest.raises(ValueError, match="another shape"):
        m({"left": X[:, :5], "right": X})
    m.compile("sgd", {"x": "mse", "y": "mae"}, metrics={"x": ["mae"]}, run_eagerly=True)
    h = m.fit({"left": X, "right": X}, {"x": Y, "y": np.zeros((32, 6))}, epochs=2, verbose=0)
    assert set(h.history) == {"loss", "x_loss", "y_loss", "x_mae"}


def test_outputs_in_a_list_go_by_the_names_of_their_layers():
    i = keras.Input((6,))
    x = L.Dense(4, "tanh")(i)
    m = keras.Model(i, [L.Dense(1, name="size")(x), L.Dense(3, "softmax", name="kind")(x)])
    kinds = R.integers(0, 3, 32)
    m.compile(
        "adam",
        ["mse", "sparse_categorical_crossentropy"],
        metrics=[["mae"], ["accuracy"]],
        run_eagerly=True,
    )
    h = m.fit(X, [Y, kinds], validation_split=0.25, verbose=0).history
    assert {"size_loss", "kind_loss", "size_mae", "kind_accuracy", "val_kind_loss"} < set(h)
    m.compile("adam", {"size": "mse"}, loss_weights={"size": 2.0}, run_eagerly=True)
    out = m.predict(X, verbose=0)
    assert m.evaluate(X, [Y, kinds], verbose=0)[0] == pytest.approx(2 * ((out[0] - Y) ** 2).mean(), rel=1e-4)  # fmt: skip


def test_sequential_knows_its_shapes_when_it_can():
    m = keras.Sequential([L.Dense(4, activation="relu"), nn.Dropout(0.5), L.Dense(2)])
    assert m.weights == []
    with pytest.raises(RuntimeError, match="before shapes are known"):
        _ = m.inputs
    m(X)
    assert [tuple(w.shape) for w in m.weights] == [(6, 4), (4,), (4, 2), (2,)]
    early = keras.Sequential([keras.Input((6,)), L.Dense(4), L.Dense(2)])
    assert early.output_shape == (None, 2)
    inside = keras.Model(early.inputs, [x.output for x in early.layers])
    assert [tuple(t.shape) for t in inside(X)] == [(32, 4), (32, 2)]
    early.pop()
    assert early.output_shape == (None, 4)
    early.layers[0].trainable = False
    assert (len(early.trainable_weights), len(early.non_trainable_weights)) == (0, 2)
    late = keras.Sequential([L.LSTM(3), L.Dense(1)])
    late.compile("adam", "mse", run_eagerly=True)
    late.fit(((R.normal(size=(8, 5, 2)), R.normal(size=(8, 1))) for _ in range(3)), verbose=0)
    assert (late.trainer.step, late.count_params()) == (3, 76)


class Linear(keras.layers.Layer):
    def __init__(self, units=4, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, input_shape):
        self.w = self.add_weight(shape=(input_shape[-1], self.units), initializer="random_normal")
        self.b = self.add_weight(shape=(self.units,), initializer="zeros", regularizer="l2", constraint="non_neg")  # fmt: skip
        self.seen = self.add_weight(shape=(), initializer="zeros", trainable=False, name="seen")

    def call(self, inputs, training=False):
        if training:
            self.seen.assign_add(1.0)
        self.add_loss(0.5 * ops.mean(ops.square(inputs)))
        return ops.matmul(inputs, self.w) + self.b


def test_layers_of_ones_own():
    layer = Linear(3)
    y = layer(X)
    assert [tuple(w.shape) for w in layer.weights] == [(6, 3), (3,), ()]
    np.testing.assert_allclose(y.detach(), X @ layer.w.numpy(), rtol=1e-5, atol=1e-6)
    assert float(layer.losses[0]) == pytest.approx(0.5 * (X**2).mean(), rel=1e-5)
    layer(X)
    assert len(layer.losses) == 2  # the call's and the regularizer's
    assert sorted(layer.state_dict()) == ["b", "seen", "w"]
    assert layer.get_config()["units"] == 3

    class Block(keras.Model):
        def __init__(self):
            super().__init__()
            self.parts = [Linear(3) for _ in range(2)]
            self.parts.append(L.Dense(1))

        def call(self, inputs):
            for part in self.parts:
                inputs = part(inputs)
            return inputs

    m = Block()
    m.compile("sgd", "mse")
    h = m.fit(X, Y, epochs=2, verbose=0)
    assert len(m.weights) == 8
    assert [float(w) for w in m.weights if w.ndim == 0] == [2.0, 2.0]  # steps of an epoch, twice
    assert all((p.b >= 0).all() for p in m.parts[:2])
    plain = ((m.predict(X, verbose=0) - Y) ** 2).mean()
    with kiln.no_grad():
        m(X)
    added = float(sum(m.losses))
    assert m.evaluate(X, Y, verbose=0) == pytest.approx(plain + added, rel=1e-4)
    assert len(m.losses) == 2  # the regularizers' alone: what a compiled step adds stays in it
    assert h.history["loss"][0] > plain


@pytest.mark.parametrize("compiled", [False, True])
def test_steps_of_ones_own(compiled):
    class Own(keras.Model):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.tracker = keras.metrics.Mean("loss")
            self.error = keras.metrics.MeanAbsoluteError("mae")

        def train_step(self, data):
            x, y = data
            out = self(x, training=True)
            loss = ops.mean(ops.square(out - y))
            self.zero_grad()
            loss.backward()
            self.optimizer.apply([w.grad for w in self.trainable_weights], self.trainable_weights)
            self.tracker.update_state(loss)
            self.error.update_state(y, out)
            return {m.name: m.result() for m in self.metrics}

        @property
        def metrics(self):
            return [self.tracker, self.error]

    def made(kind):
        kiln.manual_seed(0)
        i = keras.Input((6,))
        return kind(i, L.Dense(1)(i))

    own, usual = made(Own), made(keras.Model)
    own.compile(keras.optimizers.Adam(0.1), run_eagerly=not compiled)
    usual.compile(keras.optimizers.Adam(0.1), "mse", metrics=["mae"], run_eagerly=not compiled)
    a = own.fit(X, Y, batch_size=8, epochs=2, shuffle=False, verbose=0).history
    b = usual.fit(X, Y, batch_size=8, epochs=2, shuffle=False, verbose=0).history
    assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
    assert a["mae"] == pytest.approx(b["mae"], rel=1e-4)
    assert own.optimizer.iterations == 8
    twin = pickle.loads(pickle.dumps(usual))
    np.testing.assert_allclose(twin(X).detach(), usual(X).detach())

    class Shifted(keras.Model):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return super().compute_loss(x, y, y_pred, sample_weight) + 1.0

    m = made(Shifted)
    m.compile("sgd", "mse", metrics=["mae"], run_eagerly=not compiled)
    wanted = 1 + ((m.predict(X, verbose=0) - Y) ** 2).mean()
    assert m.evaluate(X, Y, verbose=0, return_dict=True)["loss"] == pytest.approx(wanted, rel=1e-4)
    assert set(m.fit(X, Y, verbose=0, validation_split=0.5).history) == {"loss", "mae", "val_loss", "val_mae"}  # fmt: skip


def test_masked_losses_and_metrics_count_what_is_there():
    i = keras.Input((None,), dtype="int32")
    x = L.LSTM(4, return_sequences=True)(L.Embedding(9, 4, mask_zero=True)(i))
    m = keras.Model(i, L.Dense(9, activation="softmax")(x))
    m.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], run_eagerly=True)
    ids = np.zeros((8, 6), np.int64)
    ids[:, :3] = R.integers(1, 9, (8, 3))
    loss, accuracy = m.evaluate(ids, ids, verbose=0)
    p = m.predict(ids, verbose=0)
    each = -np.log(np.take_along_axis(p, ids[..., None], -1)[..., 0])
    assert loss == pytest.approx(each[:, :3].mean(), rel=1e-4)
    assert accuracy == pytest.approx((p.argmax(-1) == ids)[:, :3].mean())


CONFIG = """{"module": "keras.src.models.functional", "class_name": "Functional", "config": {"name": "m", "trainable": true, "layers": [
 {"module": "keras.layers", "class_name": "InputLayer", "config": {"batch_shape": [null, 4], "dtype": "float32", "sparse": false,
  "ragged": false, "name": "i", "optional": false}, "registered_name": null, "name": "i", "inbound_nodes": []},
 {"module": "keras.layers", "class_name": "Dense", "config": {"name": "d", "trainable": true, "dtype": {"module": "keras", "class_name":
  "DTypePolicy", "config": {"name": "float32"}, "registered_name": null}, "units": 3, "activation": "relu", "use_bias": true,
  "kernel_initializer": {"module": "keras.initializers", "class_name": "GlorotUniform", "config": {"seed": null, "input_axes": null},
  "registered_name": null}, "bias_initializer": {"module": "keras.initializers", "class_name": "Zeros", "config": {},
  "registered_name": null}, "kernel_regularizer": null, "quantization_config": null}, "registered_name": null, "build_config":
  {"input_shape": [null, 4]}, "name": "d", "inbound_nodes": [{"args": [{"class_name": "__keras_tensor__", "config": {"shape": [null, 4],
  "dtype": "float32", "keras_history": ["i", 0, 0]}}], "kwargs": {}}]},
 {"module": "keras.src.ops.numpy", "class_name": "Multiply", "config": {"name": "multiply"}, "registered_name": "Multiply", "name":
  "multiply", "inbound_nodes": [{"args": [{"class_name": "__keras_tensor__", "config": {"shape": [null, 3], "dtype": "float32",
  "keras_history": ["d", 0, 0]}}, 2], "kwargs": {}}]}],
 "input_layers": [["i", 0, 0]], "output_layers": ["multiply", 0, 0]}, "registered_name": "Functional"}"""


def test_configs_of_keras_and_of_ones_own():
    m = keras.models.model_from_json(CONFIG)
    x = X[:, :4]
    np.testing.assert_allclose(m(x).detach(), 2 * np.maximum(x @ m.get_weights()[0], 0), rtol=1e-5)
    again = json.loads(m.to_json())
    assert again["config"]["layers"][2] == json.loads(CONFIG)["config"]["layers"][2]
    twin = keras.models.clone_model(two_inputs())
    assert [x.name for x in twin.layers] == ["left", "right", "shared", "inner", "both", "out"]
    i = keras.Input((6,))
    custom = keras.Model(i, Linear(3)(i))
    with pytest.raises(KeyError, match="nobody knows"):
        keras.Model.from_config(custom.get_config())
    made = keras.Model.from_config(custom.get_config(), custom_objects={"Linear": Linear})
    assert made.output_shape == (None, 3)
    with pytest.raises(ValueError, match="no option 'unit'"):
        L.Dense.from_config({"unit": 3})
    with pytest.raises(TypeError, match="lambda"):
        keras.Sequential([keras.Input((6,)), L.Lambda(lambda x: x)]).to_json()


def test_files_in_keras_formats(tmp_path):
    h5py = pytest.importorskip("h5py")
    m = two_inputs()
    m.compile(keras.optimizers.Adam(0.01), {"x": "mse", "y": "mae"})
    m.fit({"left": X, "right": X}, {"x": Y, "y": np.zeros((32, 6))}, verbose=0)
    m.save(tmp_path / "m.keras")
    found = keras.models.load_model(tmp_path / "m.keras")
    given = {"left": X, "right": X}
    np.testing.assert_allclose(found.predict(given, verbose=0)["x"], m.predict(given, verbose=0)["x"], rtol=1e-5)  # fmt: skip
    assert found.optimizer.learning_rate == pytest.approx(0.01)
    m.save_weights(tmp_path / "m.weights.h5")
    with h5py.File(tmp_path / "m.weights.h5") as f:
        assert f["layers/dense/vars/0"].shape == (6, 4)
        assert f["layers/sequential/layers/batch_normalization/vars/3"].shape == (3,)
    other = two_inputs()
    other.load_weights(tmp_path / "m.weights.h5")
    np.testing.assert_array_equal(other.get_weights()[0], m.get_weights()[0])
    with pytest.raises(ValueError, match="not those of this model"):
        keras.Sequential([keras.Input((6,)), L.Dense(9)]).load_weights(tmp_path / "m.weights.h5")


def test_metrics_are_those_of_keras():
    """Figures recorded from Keras 3.15.1."""
    scores, true = [0, 0.3, 0.8, 0.3, 0.8], [0, 0, 0, 1, 1]
    rows, hot = [[0.2, 0.6, 0.7], [0.2, 0.6, 0.6], [0.6, 0.8, 0.0]], [[1, 1, 1], [1, 0, 0], [1, 1, 0]]  # fmt: skip
    for name, options, y, p, wanted in [
        ("TruePositives", {}, [0, 1, 1, 1], [1, 0, 1, 1], 2), ("FalsePositives", {}, [0, 1, 1, 1], [1, 0, 1, 1], 1),
        ("TrueNegatives", {"thresholds": [0.1, 0.9]}, true, scores, [1, 3]), ("FalseNegatives", {}, [0, 1, 1, 1], [1, 0, 1, 1], 1),
        ("MeanIoU", {"num_classes": 2}, [0, 0, 1, 1], [0, 1, 0, 1], 1 / 3), ("BinaryIoU", {"threshold": 0.3}, [0, 1, 0, 1], [0.1, 0.2, 0.4, 0.7], 1 / 3),
        ("SensitivityAtSpecificity", {"specificity": 0.5}, true, scores, 0.5), ("SpecificityAtSensitivity", {"sensitivity": 0.5}, true, scores, 2 / 3),
        ("PrecisionAtRecall", {"recall": 0.5}, true, scores, 0.5), ("RecallAtPrecision", {"precision": 0.8}, [0, 0, 1, 1], [0, 0.5, 0.3, 0.9], 0.5),
        ("F1Score", {"threshold": 0.5}, hot, rows, [0.5, 0.8, 2 / 3]), ("R2Score", {}, [[1], [4], [3]], [[2], [4], [4]], 0.57143),
        ("AUC", {"num_thresholds": 3}, [0, 0, 1, 1], [0, 0.5, 0.3, 0.9], 0.75), ("FBetaScore", {"beta": 2.0, "average": "macro", "threshold": 0.5}, hot, rows, 0.70901),
    ]:  # fmt: skip
        metric = getattr(keras.metrics, name)(**options)
        metric.update_state(np.array(y, np.float32), np.array(p, np.float32))
        np.testing.assert_allclose(metric.result(), wanted, atol=2e-5, err_msg=name)
    mean = keras.metrics.Mean()
    mean.update_state([1, 3, 5, 7], sample_weight=[1, 1, 0, 0])
    assert float(mean.result()) == 2.0

    class Count(keras.metrics.Metric):
        def __init__(self, name="count"):
            super().__init__(name=name)
            self.n = self.add_weight(name="n", initializer="zeros")

        def update_state(self, y_true, y_pred, sample_weight=None):
            self.n.assign_add(ops.sum(ops.cast(y_true > 0, "float32")))

        def result(self):
            return self.n.value

    m = keras.Sequential([keras.Input((6,)), L.Dense(1)])
    m.compile("sgd", "mse", metrics=[Count()], run_eagerly=True)
    h = m.fit(X, Y, batch_size=8, epochs=2, verbose=0, validation_data=(X[:8], Y[:8])).history
    assert h["count"] == [(Y > 0).sum()] * 2
    assert h["val_count"] == [(Y[:8] > 0).sum()] * 2


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("Ftrl", [2.59375, 0.82293, 0.69202, 0.59048]),
        ("Lamb", [2.59375, 2.10094, 1.70176, 1.37843]),
    ],
)
def test_more_optimizers_step_as_in_keras(name, wanted):
    """Losses recorded from Keras 3.15.1."""
    m = keras.Sequential([keras.Input((3,)), L.Dense(2, kernel_initializer="ones", use_bias=False)])
    m.compile(getattr(keras.optimizers, name)(learning_rate=0.1), "mse", run_eagerly=True)
    x = np.arange(12.0).reshape(4, 3) / 12
    assert m.fit(x, np.zeros((4, 2)), epochs=4, batch_size=4, verbose=0).history["loss"] == pytest.approx(wanted, abs=2e-5)  # fmt: skip


def test_initializers_regularizers_constraints():
    i = keras.initializers
    for name, spread in (("GlorotUniform", (2 / 300) ** 0.5), ("HeNormal", (2 / 100) ** 0.5), ("LecunNormal", 0.1)):  # fmt: skip
        assert getattr(i, name)(seed=1)((100, 200)).std().item() == pytest.approx(spread, rel=0.03)
    np.testing.assert_array_equal(i.RandomNormal(seed=3)((4, 2)), i.RandomNormal(seed=3)((4, 2)))
    q = i.Orthogonal()((6, 4))
    np.testing.assert_allclose(q.T @ q, np.eye(4), atol=1e-5)
    w = kiln.tensor([[1.0, -2.0], [2.0, 1.0]])
    assert keras.regularizers.L1L2(0.1, 0.01)(w).item() == pytest.approx(0.6 + 0.1)
    np.testing.assert_allclose(keras.constraints.UnitNorm()(w), w / np.sqrt([5.0, 5.0]), rtol=1e-5)
    with pytest.raises(ValueError, match="stands for no initializer"):
        i.get("glorot")


def test_callbacks_with_files_and_averages(tmp_path):
    def made(optimizer="sgd"):
        kiln.manual_seed(0)
        m = keras.Sequential([keras.Input((6,)), L.Dense(1)])
        m.compile(optimizer, "mse", run_eagerly=True)
        return m

    class Break(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise OSError("pulled out")

    m = made()
    with pytest.raises(OSError, match="pulled"):
        m.fit(X, Y, epochs=4, shuffle=False, verbose=0, callbacks=[keras.callbacks.BackupAndRestore(tmp_path), Break()])  # fmt: skip
    again = made()
    h = again.fit(X, Y, epochs=4, shuffle=False, verbose=0, callbacks=[keras.callbacks.BackupAndRestore(tmp_path)])  # fmt: skip
    whole = made().fit(X, Y, epochs=4, shuffle=False, verbose=0)
    assert h.history["loss"] == whole.history["loss"]
    assert not list(tmp_path.iterdir())
    averaged = made(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5))
    seen = averaged.fit(X, Y, validation_data=(X, Y), epochs=3, verbose=0, callbacks=[keras.callbacks.SwapEMAWeights()])  # fmt: skip
    assert averaged.evaluate(X, Y, verbose=0) == pytest.approx(seen.history["val_loss"][-1], rel=1e-5)  # fmt: skip


def test_utilities(tmp_path):
    u = keras.utils
    assert u.pad_sequences([[1], [2, 3], [4, 5, 6]], maxlen=2).tolist() == [[0, 1], [2, 3], [5, 6]]
    assert u.pad_sequences([[1], [4, 5, 6]], maxlen=2, padding="post", truncating="post").tolist() == [[1, 0], [4, 5]]  # fmt: skip
    np.testing.assert_allclose(u.normalize([[3.0, 4.0]]), [[0.6, 0.8]])
    x, y = next(iter(u.timeseries_dataset_from_array(np.arange(40.0).reshape(20, 2), np.arange(20.0), 4, sampling_rate=2, batch_size=3)))  # fmt: skip
    assert (x.shape, y.tolist(), x[1, 1].tolist()) == ((3, 4, 2), [0, 1, 2], [6, 7])
    left, right = u.split_dataset(np.arange(10), left_size=0.8)
    assert (left.tolist(), right.tolist()) == (list(range(8)), [8, 9])
    image = pytest.importorskip("PIL.Image")
    for kind, colour in (("cats", (255, 0, 0)), ("dogs", (0, 0, 255))):
        (tmp_path / kind).mkdir()
        for i in range(3):
            image.new("RGB", (6, 4), colour).save(tmp_path / kind / f"{i}.png")
    data = u.image_dataset_from_directory(tmp_path, image_size=(4, 6), batch_size=6, shuffle=False)
    pictures, labels = next(iter(data))
    assert data.class_names == ["cats", "dogs"]
    assert (pictures.shape, labels.tolist()) == ((6, 4, 6, 3), [0, 0, 0, 1, 1, 1])
    assert pictures[0, 0, 0].tolist() == [255, 0, 0]
