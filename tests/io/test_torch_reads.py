"""PyTorch's files both ways: what torch saves Kiln loads, what Kiln saves torch loads."""

from __future__ import annotations

import io
from collections import OrderedDict

import numpy as np
import pytest

import kiln
from kiln import dtypes as dt

torch = pytest.importorskip("torch", reason="PyTorch is not installed: extra [peers]")
pytestmark = pytest.mark.peers


def to_kiln(obj, **options):
    f = io.BytesIO()
    torch.save(obj, f, **options)
    return kiln.load(io.BytesIO(f.getvalue()))


def to_torch(obj):
    f = io.BytesIO()
    kiln.save(obj, f, format="torch")
    return torch.load(io.BytesIO(f.getvalue()), weights_only=True)


OPTIONS = [{}, {"pickle_protocol": 4}, {"_use_new_zipfile_serialization": False}]


@pytest.mark.parametrize("options", OPTIONS, ids=["zip", "protocol 4", "legacy"])
def test_torch_to_kiln(options):
    base = torch.arange(12.0).reshape(3, 4)
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    opt = torch.optim.Adam(net.parameters())
    net(torch.ones(2, 2)).sum().backward()
    opt.step()
    obj = {
        "base": base, "t": base.t(), "net": net.state_dict(), "opt": opt.state_dict(), "p": net[0].weight,
        "numbers": [1, 2.5, None, True, "x", 3 + 4j, 2**70], "dtype": torch.bfloat16, "size": torch.Size([1, 2]),
        "device": torch.device("cpu"), "half": torch.ones(3, dtype=torch.bfloat16), "set": {1, 2}, "bytes": b"\xff\x00",
        "leaf": torch.ones(2, requires_grad=True), "empty": torch.empty(0, 3), "0d": torch.tensor(3),
        "complex": torch.ones(2, dtype=torch.complex64), "bool": torch.tensor([True, False]),
    }  # fmt: skip
    got = to_kiln(obj, **options)
    assert got["t"].tolist() == base.t().tolist()
    got["base"][1, 0] = 100
    assert got["t"][0, 1].item() == 100
    assert got["numbers"] == obj["numbers"]
    assert (got["dtype"], got["size"], str(got["device"])) == (kiln.bfloat16, (1, 2), "cpu")
    assert got["half"].dtype is kiln.bfloat16
    assert got["leaf"].requires_grad
    assert isinstance(got["p"], kiln.nn.Parameter)
    assert got["set"] == {1, 2}
    assert got["bytes"] == b"\xff\x00"
    assert got["empty"].shape == (0, 3)
    for k, v in net.state_dict().items():
        np.testing.assert_array_equal(got["net"][k].numpy(), v.numpy())
    mine = kiln.nn.Sequential(kiln.nn.Linear(2, 3), kiln.nn.BatchNorm1d(3))
    mine.load_state_dict(got["net"])
    kiln.optim.Adam(mine.parameters()).load_state_dict(got["opt"])


def test_kiln_to_torch():
    base = kiln.arange(12.0).reshape(3, 4)
    net = kiln.nn.Sequential(kiln.nn.Linear(2, 3), kiln.nn.BatchNorm1d(3))
    obj = {
        "base": base, "t": base.t(), "row": base[1], "net": net.state_dict(), "p": net[0].weight,
        "list": [1, -1, 300, 70000, 2**40, 2.5, "täxt", None, True, 3 + 4j, b"\xff\x00", (1, (2,)), {1, 2}],
        "od": OrderedDict(a=kiln.ones(2, requires_grad=True)), "size": kiln.Size((1, 2)), "dtype": kiln.float16,
        "flip": kiln.arange(3).flip(0), **{d.name: kiln.ones(2, 2).to(d) for d in dt.ALL},
    }  # fmt: skip
    got = to_torch(obj)
    assert got["t"].tolist() == base.t().tolist()
    got["base"][1, 0] = 100
    assert got["row"][0].item() == got["t"][0, 1].item() == 100
    assert got["list"] == obj["list"]
    assert got["size"] == torch.Size([1, 2])
    assert got["od"]["a"].requires_grad
    assert isinstance(got["p"], torch.nn.Parameter)
    assert got["flip"].tolist() == [2, 1, 0]
    for d in dt.ALL:
        assert got[d.name].dtype is getattr(torch, d.name)
        assert got[d.name].to(torch.complex128).sum() == 4
    theirs = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    theirs.load_state_dict(got["net"])


def test_mapped_files(tmp_path):
    kiln.save({"w": kiln.arange(1000.0), "v": kiln.ones(3)}, tmp_path / "x.pt")
    got = torch.load(tmp_path / "x.pt", mmap=True, weights_only=True)
    assert got["w"][999] == 999
    torch.save({"w": torch.ones(3)}, tmp_path / "y.pt")
    assert kiln.load(tmp_path / "y.pt", map_location="cpu", weights_only=True)["w"].tolist() == [
        1,
        1,
        1,
    ]


def test_whole_modules_are_refused_with_the_cure():
    f = io.BytesIO()
    torch.save(torch.nn.Linear(1, 1), f)
    with pytest.raises(Exception, match="state_dict") as e:
        kiln.load(io.BytesIO(f.getvalue()))
    assert isinstance(e.value, kiln.KilnError)


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
def test_sparse_tensors_both_ways():
    theirs = torch.tensor([[0.0, 2.0], [3.0, 0.0]])
    for layout in ("sparse_coo", "sparse_csr", "sparse_csc"):
        mine = to_kiln(theirs.to_sparse(layout=getattr(torch, layout)))
        assert mine.layout is getattr(kiln, layout)
        assert mine.to_dense().tolist() == theirs.tolist()
        assert to_torch(mine).to_dense().tolist() == theirs.tolist()


def test_whole_modules_both_ways():
    theirs = torch.nn.Sequential(
        torch.nn.Linear(2, 3), torch.nn.LSTM(3, 4), torch.nn.MultiheadAttention(4, 2), torch.nn.BatchNorm1d(3)
    )  # fmt: skip
    f = io.BytesIO()
    torch.save({"m": theirs, "a": np.arange(6.0).reshape(2, 3).T, "s": np.float64(2)}, f)
    got = kiln.load(io.BytesIO(f.getvalue()), weights_only=False)
    assert isinstance(got["m"][1], kiln.nn.LSTM)
    x = np.ones((4, 2), np.float32)
    want = theirs[1](theirs[3](theirs[0](torch.tensor(x))))[0]
    mine = got["m"][1](got["m"][3](got["m"][0](kiln.tensor(x))))[0]
    np.testing.assert_allclose(mine.detach().numpy(), want.detach().numpy(), atol=1e-5)
    np.testing.assert_array_equal(got["a"], np.arange(6.0).reshape(2, 3).T)
    f = io.BytesIO()
    kiln.save({"m": got["m"][:2], "a": got["a"], "s": got["s"]}, f, format="torch")
    back = torch.load(io.BytesIO(f.getvalue()), weights_only=False)
    want, mine = (
        back["m"][1](back["m"][0](torch.tensor(x)))[0],
        theirs[1](theirs[0](torch.tensor(x)))[0],
    )
    np.testing.assert_allclose(mine.detach().numpy(), want.detach().numpy(), atol=1e-6)
    np.testing.assert_array_equal(back["a"], got["a"])


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "quantised"),
        (lambda: torch.ones(2).to(torch.float8_e4m3fn), "float8_e4m3fn"),
        (lambda: torch.ones(2, device="meta"), "without data"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_kiln_lacks_is_named(make, what):
    f = io.BytesIO()
    torch.save(make(), f)
    with pytest.raises(RuntimeError, match=what):
        kiln.load(io.BytesIO(f.getvalue()))


def test_tensors_with_attributes_and_storages():
    x = torch.ones(2)
    x.note = 3
    f = io.BytesIO()
    torch.save({"x": x, "s": torch.ones(2)._typed_storage(), "layout": torch.sparse_csr}, f)
    got = kiln.load(io.BytesIO(f.getvalue()))
    assert (got["x"].note, got["s"].tolist(), got["layout"]) == (3, [1, 1], kiln.sparse_csr)
