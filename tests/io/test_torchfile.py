"""PyTorch's files: written and read without pickle, shared memory kept, malicious and broken ones refused."""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

import kiln
from kiln import dtypes as dt
from kiln.errors import KilnError
from kiln.io.pickled import Call, Global, Persistent, Writer


def written(obj) -> bytes:
    f = io.BytesIO()
    kiln.save(obj, f, format="torch")
    return f.getvalue()


def read(data: bytes):
    return kiln.load(io.BytesIO(data))


def again(obj):
    return read(written(obj))


@pytest.mark.parametrize("d", dt.ALL, ids=lambda d: d.name)
def test_every_dtype(d):
    a = np.arange(6).reshape(2, 3).astype(d.np)
    for x in (kiln.from_numpy(a), kiln.tensor(a)[0, 0], kiln.empty(0, 2, dtype=d)):
        got = again(x)
        assert got.dtype is d
        assert got.shape == x.shape
        np.testing.assert_array_equal(got.numpy(), x.numpy())


def test_nested_containers_come_back_equal():
    obj = {
        "a": [1, 255, 256, 70000, -3, 2**31, -(2**40), 2**80, 2.5, -0.0, float("inf"), True, None, "täxt", 1 + 2j],
        "b": (kiln.bfloat16, kiln.Size((2, 3)), kiln.device("cpu"), (), (1,), (1, 2, 3, 4, 5), [], {}, b"\x00\xff"),
        3: OrderedDict([(1.5, "x"), (None, "y"), ((1, 2), {"z"})]), "layout": kiln.sparse_coo,
    }  # fmt: skip
    got = again(obj)
    assert got == obj
    assert type(got[3]) is OrderedDict
    assert type(got["b"][1]) is kiln.Size
    assert list(again(list(range(600)))) == list(range(600))


def test_views_share_memory_again_and_objects_are_one_again():
    base = kiln.arange(12.0).reshape(3, 4)
    shared: list = [1]
    got = again(
        {"base": base, "t": base.t(), "row": base[1], "same": base, "l": shared, "m": shared}
    )
    got["row"][0] = 100
    assert got["base"][1, 0].item() == got["t"][0, 1].item() == 100
    assert got["t"].stride() == (1, 4)
    assert got["same"] is got["base"]
    assert got["l"] is got["m"]
    twice = again(got)  # what was loaded is saved in the same way
    twice["row"][0] = 7
    assert twice["base"][1, 0].item() == 7


def test_only_memory_in_use_is_written():
    x = kiln.zeros(1_000_000)
    assert len(written({"a": x[10:20], "b": x[15:30]})) < 5000
    got = again([x[10:20], x[15:30], kiln.arange(5).flip(0)])
    got[0][5] = 3
    assert got[1][0].item() == 3
    assert got[2].tolist() == [4, 3, 2, 1, 0]


def test_parameters_and_leaves():
    net = kiln.nn.Linear(2, 3)
    got = again({"p": net.weight, "leaf": kiln.ones(2, requires_grad=True), "made": net.weight * 2})
    assert isinstance(got["p"], kiln.nn.Parameter)
    assert got["leaf"].requires_grad
    assert got["made"].requires_grad  # and is a leaf where it is read, as PyTorch has it
    assert got["made"].is_leaf
    state = net.state_dict()
    back = again(state)
    assert back._metadata == state._metadata
    kiln.nn.Linear(2, 3).load_state_dict(back)


def test_the_name_decides_the_format(tmp_path, monkeypatch):
    for name in ("a.pt", "a.pth", "a.ckpt"):
        kiln.save({"x": kiln.ones(2)}, tmp_path / name)
        assert zipfile.is_zipfile(tmp_path / name)
    kiln.save({"x": kiln.ones(2)}, tmp_path / "a.kiln")
    assert not zipfile.is_zipfile(tmp_path / "a.kiln")
    monkeypatch.setattr("kiln.naming.name", "torch")
    kiln.save({"x": kiln.ones(2)}, tmp_path / "b")
    assert zipfile.is_zipfile(tmp_path / "b")
    with pytest.raises(ValueError, match="format"):
        kiln.save({}, tmp_path / "a", format="hdf5")


@pytest.mark.parametrize("obj", [object(), {"f": print}, [lambda: 1], np.array([None])])
def test_what_can_not_be_saved(obj):
    with pytest.raises(TypeError, match="can't be saved"):
        written(obj)


def test_a_list_that_contains_itself_comes_back():
    x: list = []
    x.append(x)
    got = again(x)
    assert got[0] is got


# ---------------------------------------------------------------- hostile files


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


def archive(tree: bytes, *storages: bytes, **options) -> bytes:
    f = io.BytesIO()
    with zipfile.ZipFile(f, "w", options.get("compression", zipfile.ZIP_STORED)) as z:
        z.writestr("archive/data.pkl", tree)
        for i, s in enumerate(storages):
            z.writestr(f"archive/data/{i}", s)
    return f.getvalue()


def test_calls_are_refused_by_name_and_nothing_is_executed(capsys):
    for tree in (
        pickle.dumps(Evil(), 2), pickle.dumps([kiln.Size, Evil()], 4), b"\x80\x02cos\nsystem\nU\x02ls\x85R.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.", b"\x80\x02c__builtin__\neval\nX\x01\x00\x00\x001\x85R.",
    ):  # fmt: skip
        with pytest.raises(pickle.UnpicklingError, match="not on the list") as e:
            read(archive(tree))
        assert isinstance(e.value, KilnError)
        assert len(str(e.value).splitlines()) == 3
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "tree",
    [
        b"\x80\x02N)R.",  # a call of None
        b"\x80\x02ccollections\nOrderedDict\n)Rccollections\nOrderedDict\nb.",  # a function as state
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}U\x0c__defaults__)sb.",  # a state for a function
        b"\x80\x02]q\x00K\x01K\x02s.", b"\x80\x02}]K\x01s.", b"\x80\x02h\x05.", b"\x80\x02t.", b"\x80\x02K", b"\x80\x02",
        b"\x80\x02i", b"\x80\x02P0\n.", b"\x80\x02(K\x01o.", b"\x80\x02\x82\x01.", b"\x80\x02X\xff\xff\xff\xff.",
        b"\x80\x02U\x07storageK\x01K\x02\x87Q.", b"", b"\x80\x02.",
    ],
)  # fmt: skip
def test_trees_that_are_no_data_are_refused(tree):
    with pytest.raises(pickle.UnpicklingError):
        read(archive(tree))


def tensor_tree(n=4, offset=0, size=(4,), stride=(1,), kind="FloatStorage", key="0") -> bytes:
    where = ("storage", Global("torch", kind), key, "cpu", n)
    rebuild = Global("torch._utils", "_rebuild_tensor_v2")
    args = (Persistent(where), offset, size, stride, False, OrderedDict())
    return Writer(lambda x: x).dumps(Call(rebuild, args))


def test_tensors_outside_their_storage_are_refused():
    data = np.arange(4, dtype=np.float32).tobytes()
    assert read(archive(tensor_tree(), data)).tolist() == [0, 1, 2, 3]
    assert read(archive(tensor_tree(size=(2, 2), stride=(1, 2)), data)).tolist() == [[0, 2], [1, 3]]
    for facts in (
        {"offset": 1}, {"offset": -1}, {"size": (5,)}, {"stride": (2,)}, {"stride": (-1,)}, {"size": (-1,)}, {"n": 5},
        {"n": 3}, {"size": (2, 2)}, {"size": (2**40, 2**40), "stride": (0, 0)}, {"offset": 2**63}, {"size": (4.0,)},
        {"key": "1"}, {"key": "../0"}, {"kind": "DoubleStorage"},
    ):  # fmt: skip
        with pytest.raises(pickle.UnpicklingError):
            read(archive(tensor_tree(**facts), data))


def test_truncated_and_altered_files_are_refused():
    data = written({"w": kiln.arange(100.0), "n": [1, (2, "three")]})
    for n in (4, 30, 100, len(data) // 2, len(data) - 1):
        with pytest.raises(KilnError):
            read(data[:n])
    at = data.index(struct.pack("<f", 57.0))
    with pytest.raises(KilnError, match="checksum"):
        read(data[:at] + b"\x07" + data[at + 1 :])
    rng = np.random.default_rng(0)
    for _ in range(300):
        bad = bytearray(data)
        for i in rng.integers(0, len(bad), rng.integers(1, 4)):
            bad[i] = rng.integers(0, 256)
        try:
            read(bytes(bad))
        except KilnError:
            continue


def test_archives_that_unpack_to_more_than_they_are_are_refused():
    data = np.zeros(4, np.float32).tobytes()
    with pytest.raises(KilnError, match="compressed"):
        read(archive(tensor_tree(), data, compression=zipfile.ZIP_DEFLATED))
    good = bytearray(archive(tensor_tree(n=40, size=(40,)), bytes(160), bytes(160)))
    first = good.index(b"PK\x01\x02")
    second = good.index(b"PK\x01\x02", good.index(b"PK\x01\x02", first + 4) + 4)
    local = good.index(b"archive/data/0") - 30
    good[second + 42 : second + 46] = struct.pack(
        "<I", local
    )  # the third entry lies where the second does
    with pytest.raises(KilnError, match=r"overlap|corrupt"):
        read(bytes(good))


def test_fuzzed_trees_give_data_or_an_error():
    """No altered pickle gets the reader to do anything but read."""
    tree = Writer(lambda x: x).dumps({"a": [1, (2.5, "x")], "b": OrderedDict(c=b"yz"), "d": {3}})
    list(pickletools.genops(tree))
    rng = np.random.default_rng(1)
    for _ in range(2000):
        bad = bytearray(tree)
        for i in rng.integers(2, len(bad), rng.integers(1, 5)):
            bad[i] = rng.integers(0, 256)
        try:
            read(archive(bytes(bad)))
        except KilnError:
            continue


class Config:
    def __init__(self, lr):
        self.lr = lr


class Scaled:
    def __setstate__(self, state):
        self.factor = state["factor"] * 2


def test_what_the_user_names_may_be_made():
    scaled = Scaled()
    scaled.factor = 4
    name = f"{__name__}.Config"
    data = archive(pickle.dumps({"c": Config(0.5), "s": scaled}, 2))
    with pytest.raises(pickle.UnpicklingError, match=name):
        read(data)
    with kiln.serialization.safe_globals([Config, (Scaled, f"{__name__}.Scaled")]):
        got = read(data)
    assert got["c"].lr == 0.5
    assert got["s"].factor == 8
    with pytest.raises(pickle.UnpicklingError):
        read(data)
    net = kiln.nn.Sequential(kiln.nn.Linear(2, 3), kiln.nn.ReLU())
    with kiln.serialization.safe_globals([kiln.nn.Sequential, kiln.nn.Linear]):
        with pytest.raises(pickle.UnpicklingError, match=r"torch\.nn\.modules\.activation\.ReLU"):
            again(net)
        kiln.serialization.add_safe_globals([kiln.nn.ReLU, kiln.nn.functional.relu])
        same = again([net, kiln.nn.functional.relu, kiln.nn.ReLU])
    assert same[0][0].weight.equal(net[0].weight)
    assert same[1:] == [kiln.nn.functional.relu, kiln.nn.ReLU]
    kiln.serialization.add_safe_globals([Config])
    assert kiln.serialization.get_safe_globals() == [Config]
    kiln.serialization.clear_safe_globals()
    with pytest.raises(TypeError, match="class"):
        kiln.serialization.add_safe_globals([3])
