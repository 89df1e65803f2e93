"""Modules, arrays and plain objects in PyTorch's files, models in several files, and mapped files."""

import argparse
import functools
import io
import pathlib

import numpy as np
import pytest

import kiln
from kiln import nn


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.rnn = nn.Embedding(5, 4), nn.LSTM(4, 8, 2)
        self.mix = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0)
        self.norm, self.out = nn.BatchNorm1d(8), nn.Linear(8, 3)
        self.act, self.labels = nn.functional.relu, ("a", "b")

    def forward(self, x):
        y, _ = self.rnn(self.embed(x))
        return self.out(self.act(self.mix(y)))


def again(obj, **options):
    f = io.BytesIO()
    kiln.save(obj, f, format="torch")
    return kiln.load(io.BytesIO(f.getvalue()), **options)


def test_a_module_comes_back_whole():
    m = Tagger().eval()
    m.embed.weight = nn.Parameter(m.embed.weight.detach())
    got = again({"model": m, "same": m}, weights_only=False)
    assert got["model"] is got["same"]
    x = kiln.tensor([[1, 2], [3, 4]])
    np.testing.assert_array_equal(got["model"](x).detach().numpy(), m(x).detach().numpy())
    assert (got["model"].labels, got["model"].training) == (("a", "b"), False)
    (got["model"](x) ** 2).sum().backward()
    assert got["model"].rnn.weight_hh_l1.grad is not None


def test_arrays_and_plain_objects():
    obj = {
        "arrays": [np.arange(6.0).reshape(2, 3).T, np.array([1, 2]), np.array(["ab", "c"]), np.array(True)],
        "numbers": [np.float32(2.5), np.int64(-3), np.bool_(True), np.complex128(1j)],
        "dtype": np.dtype("float32"),
    }  # fmt: skip
    got = again(obj)
    for a, b in zip(obj["arrays"], got["arrays"], strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    assert got["numbers"] == obj["numbers"]
    assert [type(x) for x in got["numbers"]] == [type(x) for x in obj["numbers"]]
    assert got["dtype"] == np.dtype("float32")
    args = argparse.Namespace(lr=0.1, out=pathlib.PurePosixPath("/tmp/x"))
    assert again(args, weights_only=False) == args
    with pytest.raises(RuntimeError, match="Namespace"):
        again(args)


def test_tensors_with_attributes():
    t = kiln.ones(2)
    assert again({"t": t})["t"].tolist() == [1, 1]


def test_places_may_be_functions():
    seen = []

    def place(storage, where):
        seen.append((storage.nbytes(), where))
        return storage

    got = again({"a": kiln.ones(2), "b": kiln.ones(4)}, map_location=place)
    assert (got["b"].tolist(), seen) == ([1] * 4, [(8, "cpu"), (16, "cpu")])
    assert again(kiln.ones(2), map_location={"cuda:0": "cpu"}).tolist() == [1, 1]


def test_mapped_files_are_left_as_they_are(tmp_path):
    path = tmp_path / "m.pt"
    kiln.save({"a": kiln.arange(6.0), "b": kiln.ones(3, dtype=kiln.int64)}, path)
    got = kiln.load(path, mmap=True)
    got["a"][0] = 9
    assert got["a"].tolist() == [9, 1, 2, 3, 4, 5]
    assert kiln.load(path, mmap=True)["a"][0] == 0


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_models_in_several_files(name, tmp_path):
    m = Tagger()
    state = {**m.state_dict(), "tied": m.embed.weight.detach()}
    path = tmp_path / f"{name}.index.json"
    kiln.save(state, path, max_shard_size="2KB")
    files = sorted(p.name for p in tmp_path.iterdir())
    stem, ending = name.rsplit(".", 1)
    assert files[0] == f"{stem}-00001-of-{len(files) - 1:05d}.{ending}"
    assert len(files) > 3
    got = kiln.load(path)
    assert list(got) == list(state)
    for k, v in state.items():
        np.testing.assert_array_equal(got[k].numpy(), v.numpy())
    with pytest.raises(ValueError, match="bytes"):
        kiln.save(state, path, max_shard_size="many")
    with pytest.raises(TypeError, match="tensors by name"):
        kiln.save({"a": 1}, path)
    with pytest.raises(ValueError, match="format"):
        kiln.save(state, tmp_path / "model.index.json")


def test_models_of_pictures_go_by_torchvision_s_names():
    from kiln.vision import models, ops
    from kiln.vision.models.googlenet import InceptionAux

    m = models
    parts = {
        "models.mobilenetv3.InvertedResidual": m.mobilenetv3.InvertedResidual(
            8, 3, 8, 8, True, nn.ReLU, 1, nn.BatchNorm2d
        ),
        "models.mobilenetv2.InvertedResidual": m.mobile.InvertedResidual(8, 8, 1, 2),
        "models.densenet._DenseLayer": m.classic._DenseLayer(8, 4, 2, 0.0),
        "models.inception.InceptionAux": m.inception.InceptionAux(8, 2),
        "models.googlenet.InceptionAux": InceptionAux(8, 2),
        "models.segmentation.deeplabv3.ASPPConv": m.segmentation.ASPPConv(8, 8, 2),
        "models.resnet.BasicBlock": m.resnet.BasicBlock(8, 8),
        "ops.misc.SqueezeExcitation": ops.SqueezeExcitation(8, 2),
        "ops.stochastic_depth.StochasticDepth": ops.StochasticDepth(0.1, "row"),
    }
    for name, part in parts.items():
        f = io.BytesIO()
        kiln.save(part, f, format="torch")
        named = f"torchvision.{name}".rpartition(".")
        assert f"c{named[0]}\n{named[2]}\n".encode() in f.getvalue()
        got = kiln.load(io.BytesIO(f.getvalue()), weights_only=False)
        assert type(got) is type(part)
        assert str(got) == str(part)
    f = io.BytesIO()
    kiln.save(kiln.optim.RMSprop([kiln.ones(2, requires_grad=True)]).__class__, f, format="torch")
    assert b"ctorch.optim.rmsprop\nRMSprop\n" in f.getvalue()


def test_functions_with_arguments():
    held = nn.Module()
    held.norm = functools.partial(nn.LayerNorm, eps=1e-6)
    held.scale = functools.partial(nn.functional.gelu, approximate="tanh")
    got = again(held, weights_only=False)
    assert (got.norm.func, got.norm.keywords) == (nn.LayerNorm, {"eps": 1e-6})
    assert got.norm(4).eps == 1e-6
    assert got.scale.func is nn.functional.gelu
    with pytest.raises(RuntimeError, match=r"LayerNorm|partial"):
        again({"f": held.norm})
    with pytest.raises(TypeError, match="builtin_function"):
        again({"f": functools.partial(print, 1)}, weights_only=False)


def test_functions_go_by_the_names_that_pytorch_has():
    F = nn.functional
    for f in (
        F.relu,
        F.gelu,
        F.silu,
        F.softmax,
        F.cross_entropy,
        kiln.tanh,
        kiln.sigmoid,
        kiln.linalg.norm,
        kiln.swapaxes,
    ):
        assert again({"f": f}, weights_only=False)["f"] is f
    with pytest.raises(RuntimeError, match="relu"):
        again({"f": F.relu})


@pytest.mark.peers
def test_functions_in_files_travel_both_ways():
    torch = pytest.importorskip("torch")
    f = io.BytesIO()
    layer = nn.TransformerEncoderLayer(8, 2, 16, activation=nn.functional.gelu, dropout=0.0).eval()
    kiln.save({"layer": layer, "act": nn.functional.relu}, f, format="torch")
    got = torch.load(io.BytesIO(f.getvalue()), weights_only=False)
    assert got["act"] is torch.nn.functional.relu
    x = np.ones((1, 2, 8), np.float32)
    theirs = got["layer"](torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(layer(kiln.from_numpy(x)).detach().numpy(), theirs, atol=1e-5)
    for name in (
        "nn.functional.relu",
        "relu",
        "nn.functional.gelu",
        "tanh",
        "linalg.norm",
        "special.expit",
        "fft.rfft",
    ):
        theirs, ours = torch, kiln
        for part in name.split("."):
            theirs, ours = getattr(theirs, part), getattr(ours, part)
        f = io.BytesIO()
        torch.save({"f": theirs}, f)
        assert kiln.load(io.BytesIO(f.getvalue()), weights_only=False)["f"] is ours
    f = io.BytesIO()
    torch.save({"f": torch.Tensor.relu}, f)
    with pytest.raises(RuntimeError, match=r"getattr|TensorBase"):
        kiln.load(io.BytesIO(f.getvalue()), weights_only=False)
