"""Layers under Keras's names: outputs are those that Keras 3.15.1 gives for the same weights and inputs."""

import numpy as np
import pytest

import kiln
from kiln.keras import Input, Model, ops
from kiln.keras import layers as L

# (layer, input, output, sum of |output|, its last number but one), as recorded from Keras
FIGURES = [
    (lambda: L.Dense(3, "relu"), (4,), (3,), 1.0096, 0.2854),
    (lambda: L.Conv2D(4, 3, 2, "same", activation="relu"), (7, 6, 3), (4, 3, 4), 34.3393, 0.43438),
    (lambda: L.Conv2D(4, (2, 3), dilation_rate=2, groups=2, use_bias=False), (7, 8, 4), (5, 4, 4), 132.5547, -1.12011),
    (lambda: L.Conv1D(4, 3, padding="causal", dilation_rate=2), (9, 3), (9, 4), 22.8976, 0.29998),
    (lambda: L.Conv3D(2, 3, padding="same", strides=2), (4, 5, 3, 2), (2, 3, 2, 2), 129.5712, 3.33065),
    (lambda: L.Conv2D(3, 2, data_format="channels_first", padding="same"), (2, 4, 5), (3, 4, 5), 82.9454, -0.67063),
    (lambda: L.Conv2DTranspose(4, 3, 2, "same"), (3, 4, 2), (6, 8, 4), 178.726, -0.1271),
    (lambda: L.Conv2DTranspose(2, 2, 3), (3, 4, 2), (9, 12, 2), 157.0213, 0.33659),
    (lambda: L.Conv1DTranspose(2, 4, 2, "same", output_padding=1), (5, 3), (9, 2), 13.6202, 0.10127),
    (lambda: L.DepthwiseConv2D(3, padding="same", depth_multiplier=2), (5, 4, 2), (5, 4, 4), 103.4052, -0.6511),
    (lambda: L.SeparableConv2D(3, 3, 2, "same"), (5, 6, 2), (3, 3, 3), 17.607, -0.35827),
    (lambda: L.MaxPooling2D(3, 2, "same"), (5, 6, 2), (3, 3, 2), 33.0175, 0.76485),
    (lambda: L.AveragePooling1D(2), (7, 2), (3, 2), 0.9883, -0.12699),
    (lambda: L.GlobalAveragePooling2D(keepdims=True), (3, 4, 2), (1, 1, 2), 0.1963, 0.01589),
    (lambda: L.BatchNormalization(), (5, 3), (5, 3), 11.223, 0.09546),
    (lambda: L.LayerNormalization(axis=[1, 2]), (5, 3), (5, 3), 13.6278, 0.25058),
    (lambda: L.GroupNormalization(2), (5, 4), (5, 4), 11.4781, 0.51836),
    (lambda: L.UnitNormalization(), (5, 4), (5, 4), 17.7789, 0.68232),
    (lambda: L.RMSNormalization(), (5, 4), (5, 4), 7.9614, 0.53158),
    (lambda: L.PReLU(shared_axes=[1]), (5, 4), (5, 4), 15.8467, 0.98059),
    (lambda: L.ReLU(2.0, 0.1, 0.2), (5,), (5,), 3.8901, 0.85916),
    (lambda: L.LeakyReLU(), (5,), (5,), 4.29, 0.85916),
    (lambda: L.Softmax(1), (5, 2), (5, 2), 4.0, 0.07577),
    (lambda: L.UpSampling2D((2, 3), interpolation="bilinear"), (3, 4, 2), (6, 12, 2), 117.1973, 0.33331),
    (lambda: L.Cropping2D(((1, 0), (1, 2))), (4, 5, 2), (3, 2, 2), 14.6775, 0.13587),
    (lambda: L.ZeroPadding2D((1, 2)), (4, 5, 2), (6, 9, 2), 50.6353, 0.0),
    (lambda: L.Permute((2, 1)), (3, 4), (4, 3), 15.2748, 0.77333),
    (lambda: L.LSTM(3, return_sequences=True), (5, 2), (5, 3), 2.6373, 0.10757),
    (lambda: L.LSTM(3, activation="relu", recurrent_activation="hard_sigmoid", go_backwards=True), (5, 2), (3,), 0.7084, 0.14056),
    (lambda: L.GRU(3), (5, 2), (3,), 1.6973, 0.41125),
    (lambda: L.GRU(3, reset_after=False, return_sequences=True), (5, 2), (5, 3), 6.4153, 0.44402),
    (lambda: L.SimpleRNN(3, go_backwards=True, return_sequences=True), (5, 2), (5, 3), 10.1388, -0.14943),
    (lambda: L.Bidirectional(L.LSTM(2, return_sequences=True), merge_mode="ave"), (5, 2), (5, 2), 0.535, -0.06898),
    (lambda: L.Bidirectional(L.GRU(2)), (5, 2), (4,), 2.2106, 0.52745),
    (lambda: L.RNN([L.LSTMCell(3), L.GRUCell(2)]), (5, 2), (2,), 1.6943, 0.49387),
    (lambda: L.TimeDistributed(L.Dense(2)), (5, 3), (5, 2), 8.3182, 0.30361),
    (lambda: L.EinsumDense("abc,cd->abd", (None, 4), bias_axes="d", activation="tanh"), (5, 3), (5, 4), 12.5864, 0.46717),
    (lambda: L.Resizing(3, 5), (4, 4, 2), (3, 5, 2), 20.1873, -0.92971),
    (lambda: L.Rescaling(2.0, 1.0), (3,), (3,), 9.9091, 1.98823),
    (lambda: L.CenterCrop(2, 3), (5, 5, 1), (2, 3, 1), 7.4024, 0.06809),
]  # fmt: skip


@pytest.mark.parametrize(("make", "given", "shape", "total", "last"), FIGURES)
def test_figures_of_keras(make, given, shape, total, last):
    x = np.sin(np.arange(2 * np.prod(given)) * 1.7).reshape(2, *given).astype(np.float32)
    layer = make()
    symbolic = layer(Input(given))
    for i, w in enumerate(layer.weights):
        v = 0.4 * np.sin(np.arange(w.numel()) * 0.9 + i).reshape(tuple(w.shape))
        w.assign(np.abs(v) + 0.1 if w is getattr(layer, "moving_variance", None) else v)
    y = layer(x).detach().numpy()
    assert symbolic.shape == (None, *shape) == (None, *y.shape[1:])
    assert np.abs(y).sum() == pytest.approx(total, rel=2e-4)
    assert y.ravel()[-2] == pytest.approx(last, abs=2e-5)
    twin = type(layer).from_config(layer.get_config())
    twin(x)
    twin.set_weights(layer.get_weights())
    np.testing.assert_allclose(twin(x).detach(), y, atol=1e-6)


def test_average_pooling_counts_what_is_there():
    x = np.arange(5, dtype=np.float32).reshape(1, 5, 1)
    np.testing.assert_allclose(L.AveragePooling1D(3, 2, "same")(x).ravel(), [0.5, 2.0, 3.5])


def test_batch_normalization_moves_and_stays():
    x = np.random.default_rng(0).normal(3, 2, (50, 4)).astype(np.float32)
    layer = L.BatchNormalization(momentum=0.9)
    y = layer(x, training=True).detach().numpy()
    np.testing.assert_allclose(y, (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-3), atol=1e-5)
    np.testing.assert_allclose(layer.moving_mean, 0.1 * x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, 0.9 + 0.1 * x.var(0), rtol=1e-5)
    layer.trainable = False
    layer(x, training=True)
    np.testing.assert_allclose(layer.moving_mean, 0.1 * x.mean(0), rtol=1e-5)
    assert (len(layer.weights), len(layer.trainable_weights)) == (4, 0)


IDS = np.array([[3, 1, 0, 0], [2, 2, 4, 1]])


def test_masks_go_through_layers():
    """What is masked changes nothing: rows are as those of the short sequences alone."""
    embedding = L.Embedding(5, 3, mask_zero=True)
    x = embedding(IDS)
    np.testing.assert_array_equal(x._keras_mask, IDS != 0)
    short = embedding(IDS[:1, :2])
    for layer in (L.LSTM(4), L.GRU(4), L.SimpleRNN(4), L.LSTM(4, activation="relu"), L.Bidirectional(L.LSTM(4)), L.GlobalAveragePooling1D()):  # fmt: skip
        np.testing.assert_allclose(layer(x)[0].detach(), layer(short)[0].detach(), atol=1e-6)
    many = L.LSTM(4, return_sequences=True, zero_output_for_mask=True)(x)
    assert not many[0, 2:].any()
    assert many._keras_mask is not None
    held = L.GRU(4, return_sequences=True)(x)
    np.testing.assert_array_equal(held[0, 1].detach(), held[0, 3].detach())
    attention = L.MultiHeadAttention(2, 3)
    np.testing.assert_allclose(attention(x, x)[0, :2].detach(), attention(short, short)[0].detach(), atol=1e-6)  # fmt: skip
    assert L.Dense(2)(x)._keras_mask is not None
    assert getattr(L.Conv1D(2, 2)(x), "_keras_mask", None) is None
    masking = L.Masking()(np.array([[[1.0, 0.0], [0.0, 0.0]]]))
    assert masking._keras_mask.tolist() == [[True, False]]


def test_attention_beside_a_formula():
    rng = np.random.default_rng(0)
    q, v = rng.normal(size=(2, 3, 4)).astype(np.float32), rng.normal(size=(2, 5, 4)).astype(np.float32)  # fmt: skip
    scores = q @ v.transpose(0, 2, 1)
    shares = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    out, found = L.Attention()([q, v], return_attention_scores=True)
    np.testing.assert_allclose(found, shares, rtol=1e-5)
    np.testing.assert_allclose(out, shares @ v, rtol=1e-4, atol=1e-6)
    layer = L.MultiHeadAttention(2, 3)
    both, weights = layer(q, v, return_attention_scores=True)
    np.testing.assert_allclose(layer(q, v).detach(), both.detach(), atol=1e-6)
    assert weights.shape == (2, 2, 3, 5)
    causal = layer(v, v, use_causal_mask=True)
    v[:, 4] += 1
    np.testing.assert_allclose(layer(v, v, use_causal_mask=True)[:, :4].detach(), causal[:, :4].detach(), atol=1e-6)  # fmt: skip


def test_states_of_recurrent_layers():
    x = np.random.default_rng(0).normal(size=(2, 6, 3)).astype(np.float32)
    layer = L.LSTM(4, return_sequences=True, return_state=True)
    whole, _, c = layer(x)
    _, *states = layer(x[:, :3])
    rest, _, c2 = layer(x[:, 3:], initial_state=states)
    np.testing.assert_allclose(rest.detach(), whole[:, 3:].detach(), atol=1e-6)
    np.testing.assert_allclose(c2.detach(), c.detach(), atol=1e-6)
    stateful = L.LSTM(4, stateful=True)
    first, second = stateful(x), stateful(x)
    assert not np.allclose(first.detach(), second.detach())
    stateful.reset_state()
    np.testing.assert_allclose(stateful(x).detach(), first.detach())


def test_dropout_and_noise_train_alone():
    kiln.manual_seed(0)
    x = np.ones((4, 100, 3), np.float32)
    for layer in (L.Dropout(0.5), L.SpatialDropout1D(0.5), L.GaussianNoise(1.0), L.GaussianDropout(0.5), L.AlphaDropout(0.5)):  # fmt: skip
        np.testing.assert_array_equal(layer(x), x)
        assert not np.array_equal(layer(x, training=True), x)
        assert not layer.training
    whole = L.SpatialDropout1D(0.5)(x, training=True).numpy()
    assert (whole == whole[:, :1]).all()
    assert set(np.unique(whole)) == {0.0, 2.0}


def test_augmentation():
    kiln.manual_seed(0)
    x = np.random.default_rng(0).random((8, 6, 6, 3)).astype(np.float32)
    for layer in (L.RandomFlip(), L.RandomRotation(0.2), L.RandomZoom(0.3), L.RandomTranslation(0.2, 0.2), L.RandomContrast(0.5, (0, 1)), L.RandomBrightness(0.5, (0, 1))):  # fmt: skip
        np.testing.assert_array_equal(layer(x), x)
        y = layer(x, training=True)
        assert y.shape == x.shape
        assert not np.allclose(y, x)
    mirrored = L.RandomFlip("horizontal")(x, training=True).numpy()
    assert all((a == b).all() or (a == b[:, ::-1]).all() for a, b in zip(mirrored, x, strict=True))
    np.testing.assert_allclose(L.RandomRotation((0.25, 0.25))(x, training=True), np.rot90(x, 1, (1, 2)), atol=1e-4)  # fmt: skip
    assert L.RandomCrop(2, 3)(x, training=True).shape == (8, 2, 3, 3)


def test_preprocessing():
    n = L.Normalization()
    n.adapt(np.array([[1.0, 2.0], [3.0, 6.0]]))
    np.testing.assert_allclose(n(np.array([[1.0, 2.0], [3.0, 8.0]])), [[-1, -1], [1, 2]])
    np.testing.assert_allclose(L.Normalization(mean=3.0, variance=4.0)(np.array([[5.0]])), [[1.0]])
    assert L.Discretization([0.0, 1.0, 2.0])(np.array([[-1.5, 1.0, 3.4, 0.5]])).tolist() == [[0, 2, 3, 1]]  # fmt: skip
    for mode, wanted in (("multi_hot", [1, 1, 0, 0]), ("count", [2, 1, 0, 0])):
        assert L.CategoryEncoding(4, mode)(np.array([[0, 0, 1]])).tolist() == [wanted]
    assert L.CategoryEncoding(3, "one_hot")(np.array([[2], [0]])).tolist() == [[0, 0, 1], [1, 0, 0]]
    text = L.TextVectorization(output_sequence_length=4)
    text.adapt(["foo bar.", "Foo, baz", "foo bar"])
    assert text.get_vocabulary() == ["", "[UNK]", "foo", "bar", "baz"]
    assert text(["foo qux bar", "baz"]).tolist() == [[2, 1, 3, 0], [4, 0, 0, 0]]
    hot = L.TextVectorization(output_mode="multi_hot", vocabulary=["foo", "bar"])
    assert hot(["bar bar zed"]).tolist() == [[1, 0, 1]]
    lookup = L.StringLookup(vocabulary=["a", "b"])
    assert lookup(["b", "z"]).tolist() == [2, 0]
    assert L.StringLookup(vocabulary=["a", "b"], invert=True)(np.array([2, 0])).tolist() == ["b", "[UNK]"]  # fmt: skip
    assert L.IntegerLookup(vocabulary=[12, 36])([36, 5]).tolist() == [2, 0]
    assert 0 <= L.Hashing(3)(["a", "b"]).max() < 3


def test_merging():
    a, b = np.array([[1.0, 2.0]]), np.array([[3.0, 1.0]])
    for layer, wanted in (
        (L.Add(), [4, 3]), (L.Subtract(), [-2, 1]), (L.Multiply(), [3, 2]), (L.Average(), [2, 1.5]), (L.Maximum(), [3, 2]),
        (L.Minimum(), [1, 1]), (L.Concatenate(), [1, 2, 3, 1]), (L.Dot(1), [5]),
    ):  # fmt: skip
        np.testing.assert_allclose(layer([a, b]), [wanted])
    with pytest.raises(ValueError, match="a list"):
        L.Add()(a)


def test_ops_take_arrays_tensors_and_symbols():
    x = np.arange(6.0).reshape(2, 3)
    for name, args, wanted in [
        ("sum", {"axis": 1}, x.sum(1)), ("mean", {"axis": 0, "keepdims": True}, x.mean(0, keepdims=True)), ("std", {}, x.std()),
        ("max", {"axis": (0, 1)}, x.max()), ("argmax", {"axis": -1}, x.argmax(-1)), ("reshape", {"newshape": (3, -1)}, x.reshape(3, 2)),
        ("transpose", {}, x.T), ("flip", {"axis": 1}, x[:, ::-1]), ("cumsum", {"axis": 0}, x.cumsum(0)), ("expand_dims", {"axis": 1}, x[:, None]),
        ("take", {"indices": [2, 0], "axis": 1}, x[:, [2, 0]]), ("pad", {"pad_width": ((0, 1), (2, 0))}, np.pad(x, ((0, 1), (2, 0)))),
        ("clip", {"x_min": 1, "x_max": 3}, x.clip(1, 3)), ("prod", {}, 0.0), ("tile", {"repeats": (1, 2)}, np.tile(x, (1, 2))),
    ]:  # fmt: skip
        np.testing.assert_allclose(getattr(ops, name)(x, **args), wanted, rtol=1e-6)
    a = Input((3,))
    y = ops.relu(2 - a * 3)[:, 1:] ** 2
    m = Model(a, [y, ops.concatenate([a, y], axis=1)])
    np.testing.assert_allclose(m(x)[0], np.maximum(2 - 3 * x, 0)[:, 1:] ** 2)
    assert m.output_shape == [(None, 2), (None, 5)]
    with pytest.raises(TypeError, match="neither true nor false"):
        bool(a > 0)
    assert ops.one_hot([0, 2], 3).tolist() == [[1, 0, 0], [0, 0, 1]]
    scattered = ops.scatter_update(np.zeros(4), [[1], [3]], np.array([5.0, 6.0]))
    assert scattered.tolist() == [0, 5, 0, 6]
