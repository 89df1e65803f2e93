"""Files made to do harm: refused with an error that says why, nothing executed, nothing large allocated."""

import argparse
import io
import json
import pickle
import struct
import subprocess
import tempfile
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.io.test_torchfile import archive, tensor_tree

import kiln
from kiln.errors import KilnError
from kiln.io.pickled import Call, Global, Writer

NAMED = b"\x80\x02c%s\n%s\n"
DEEP = b")" + b"\x85" * 3_000  # a tuple in a tuple in a tuple …: hashing it would exhaust the stack


def named(module, name, args):
    return NAMED % (module, name) + args + b"R."


TREES = {
    "deep key": b"\x80\x02}" + DEEP + b"K\x01s.",
    "deep element": b"\x80\x04\x8f(" + DEEP + b"\x90.",
    "deep frozen element": b"\x80\x04(" + DEEP + b"\x91.",
    "deep element of a list": named(b"__builtin__", b"set", b"]" + DEEP + b"a\x85"),
    "deep key of pairs": named(b"collections", b"OrderedDict", b"]" + DEEP + b"K\x01\x86a\x85"),
    "as many bytes as a number says": named(b"__builtin__", b"bytearray", b"\x8a\x06\0\0\0\0\0\x01\x85"),
    "a long integer that isn't there": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "bytes that aren't there": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "text that isn't there": b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "twenty thousand dimensions": tensor_tree(size=(2,) * 20_000, stride=(0,) * 20_000),
    "more dimensions than arrays have": tensor_tree(size=(1,) * 65, stride=(0,) * 65),
    "a mark in a list": b"\x80\x02](a.",
    "only a mark": b"\x80\x02(.",
    "two results": b"\x80\x02K\x01K\x02.",
    "an array of objects": named(b"numpy", b"dtype", b"X\x01\0\0\0O\x85"),
    "a structured dtype": named(b"numpy", b"dtype", b"]X\x02\0\0\0f4a\x85"),
    "a size of text": named(b"torch", b"Size", b"X\x01\0\0\0O\x85"),
    "a device that is none": named(b"torch", b"device", b"X\x01\0\0\0O\x85"),
    "attributes of a function": NAMED % (b"torch._utils", b"_rebuild_tensor_v2") + b"}U\x04codeK\x01sb.",
    "a call of a class": named(b"torch.nn", b"Linear", b"K\x01K\x01\x86"),
    "getattr": named(b"__builtin__", b"getattr", b"K\x01X\x04\0\0\0real\x86"),
    "eval": named(b"__builtin__", b"eval", b"X\x01\0\0\x001\x85"),
    "import": named(b"importlib", b"import_module", b"X\x02\0\0\0os\x85"),
    "a module of Kiln's that runs when imported": named(b"torch.cli.__main__", b"main", b")"),
    "a name with dots": b"\x80\x04\x8c\x08torch.nn\x8c\x0dLinear.forward\x93.",
}  # fmt: skip


def refused(data, **options):
    """The error for a file's bytes, which must cost little."""
    tracemalloc.start()
    try:
        with pytest.raises(KilnError) as e:
            kiln.load(io.BytesIO(data), **options)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(str(e.value).splitlines()) == 3
    assert peak < 30 * len(data) + 3_000_000
    return str(e.value)


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_trees(tree):
    with pytest.raises(pickle.UnpicklingError):
        kiln.load(io.BytesIO(archive(tree, bytes(16))))
    refused(archive(tree, bytes(16)), weights_only=False)


class Greedy:
    def __setstate__(self, state):
        raise AssertionError("executed")


class Closing:
    def __del__(self):
        if self.__dict__:
            print("executed")


def test_code_of_classes_is_never_run(capsys):
    process = subprocess.Popen.__new__(subprocess.Popen)
    process._child_created = False
    held = tempfile._TemporaryFileCloser.__new__(tempfile._TemporaryFileCloser)
    for x in (Greedy(), Closing(), process, held):
        x.__dict__["name"] = "/nowhere"
        x.__dict__["close_called"] = True
        data = archive(pickle.dumps(x, 4, fix_imports=False))
        assert "not on the list" in refused(data, weights_only=False)
        x.__dict__.clear()
        process._child_created = False
        held.close_called = True
    assert capsys.readouterr().out == ""


def test_plain_objects_need_weights_only_false():
    data = archive(pickle.dumps({"args": argparse.Namespace(lr=0.5)}, 2))
    assert "weights_only=False" in refused(data)
    assert kiln.load(io.BytesIO(data), weights_only=False)["args"].lr == 0.5


def legacy(tree, keys=("0",), sizes=(4,), data=bytes(16)):
    """A file as PyTorch wrote them before its version 1.6."""
    parts = [pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    parts += [tree, pickle.dumps(list(keys), 2)]
    stored = b"".join(struct.pack("<q", n) + data for n in sizes)
    return b"".join(parts) + stored


def test_files_of_the_old_format():
    good = legacy(tensor_tree())
    assert kiln.load(io.BytesIO(good)).tolist() == [0, 0, 0, 0]
    for n in range(12, len(good)):
        refused(good[:n])
    refused(legacy(tensor_tree(), sizes=(2**40,)))
    refused(legacy(tensor_tree(n=2**40)))
    refused(legacy(tensor_tree(), keys=("1",)))
    refused(legacy(tensor_tree(), keys=("0", "0"), sizes=(4, 4)))
    # each storage fits into the file, all of them don't
    size = 4000
    trees = [tensor_tree(n=size, key=str(i))[2:-1] for i in range(200)]
    many = b"\x80\x02(" + b"".join(t.replace(b"q", b"q") for t in trees) + b"l."
    assert "larger than the file" in refused(
        legacy(many, keys=map(str, range(200)), data=bytes(16000))
    )


def safetensors(header, data=b"", size=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def entry(dtype="F32", shape=(1,), offsets=(0, 4), **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


ONE = json.dumps(entry()).encode()
TABLES = {
    "a header longer than memory": safetensors(b"{}", size=2**63),
    "a header longer than the file": safetensors(b"{}", size=10**8),
    "no header": safetensors(b""),
    "a list": safetensors(b"[]"),
    "nested deeply": safetensors(b'{"a":' + b"[" * 100_000),
    "a name twice": safetensors(b'{"a":' + ONE + b',"a":' + ONE + b"}", bytes(4)),
    "a name twice for two tensors": safetensors(
        b'{"a":' + ONE + b',"a":' + json.dumps(entry(offsets=(4, 8))).encode() + b"}", bytes(8)
    ),
    "a hole": safetensors({"a": entry(), "b": entry(offsets=(8, 12))}, bytes(12)),
    "tensors that overlap": safetensors({"a": entry(), "b": entry()}, bytes(4)),
    "more data than tensors": safetensors({"a": entry()}, bytes(8)),
    "less data than tensors": safetensors({"a": entry()}, bytes(3)),
    "more bytes than elements": safetensors({"a": entry("F64")}, bytes(4)),
    "no such dtype": safetensors({"a": entry("Q9")}, bytes(4)),
    "a negative size": safetensors({"a": entry(shape=(-1,))}, bytes(4)),
    "sizes that overflow": safetensors({"a": entry(shape=(2**62, 4), offsets=(0, 0))}),
    "end before start": safetensors({"a": entry(offsets=(4, 0))}, bytes(4)),
    "no UTF-8": safetensors(b'{"\xff":' + ONE + b"}", bytes(4)),
    "metadata that is no text": safetensors({"__metadata__": {"a": 1}}),
    "more dimensions than arrays have": safetensors({"a": entry(shape=(1,) * 100)}, bytes(4)),
}


@pytest.mark.parametrize("data", TABLES.values(), ids=TABLES)
def test_safetensors(data):
    refused(data)


def test_archives_that_lie():
    data = bytearray(archive(tensor_tree(), bytes(16)))
    central = data.index(b"PK\x01\x02")
    for at, value in ((20, 2**31), (24, 2**32 - 1), (42, 2**31)):  # sizes and places of entries
        bad = bytearray(data)
        bad[central + at : central + at + 4] = struct.pack("<I", value)
        refused(bytes(bad))
    end = data.index(b"PK\x05\x06")
    for at in range(4, 20):  # counts, size and place of the directory: wrong ones are not relied on
        bad = bytearray(data)
        bad[end + at] ^= 0xFF
        try:
            got = kiln.load(io.BytesIO(bytes(bad)))
        except KilnError:
            continue
        assert got.tolist() == [0, 0, 0, 0]
    up = archive(tensor_tree(key="../../etc/passwd"), bytes(16))
    assert "missing" in refused(up)


FILES = {
    "zip": archive(
        Writer(lambda x: x).dumps([Call(Global("torch", "Size"), ((1, 2),)), {"a": (1.5, {2})}, b"x"]),
        bytes(16),
    ),
    "legacy": legacy(tensor_tree()),
    "safetensors": safetensors({"a": entry(), "__metadata__": {"b": "c"}}, bytes(4)),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=150, deadline=None)
@given(
    flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4)
)
def test_altered_bytes_give_data_or_an_error(name, flips):
    data = bytearray(FILES[name])
    for at, value in flips:
        data[at % len(data)] = value
    said = None
    try:
        kiln.load(io.BytesIO(bytes(data)), weights_only=False)
    except KilnError as e:
        said = str(e)
    assert said is None or len(said.splitlines()) == 3


@pytest.mark.parametrize("name", FILES)
def test_files_cut_at_any_byte(name):
    data = FILES[name]
    for n in range(len(data)):
        with pytest.raises(KilnError):
            kiln.load(io.BytesIO(data[:n]))


@pytest.mark.parametrize(
    "where",
    ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "C:x.bin", "\\\\host\\x"],
)
def test_indexes_list_files_of_their_own_folder(where, tmp_path):
    path = tmp_path / "m.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"a": where}}))
    with pytest.raises(KilnError, match="outside of its folder"):
        kiln.load(path)


def test_indexes_that_do_not_fit(tmp_path):
    path = tmp_path / "model.safetensors.index.json"
    kiln.save({"a": kiln.ones(2)}, path)
    for text in ("", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}', "[" * 100_000):
        path.write_text(text)
        with pytest.raises(KilnError, match="not an index"):
            kiln.load(path)
    path.write_text('{"weight_map": {"b": "model-00001-of-00001.safetensors"}}')
    with pytest.raises(KilnError, match="doesn't hold the tensor 'b'"):
        kiln.load(path)
    path.write_text('{"weight_map": {"b": "gone.safetensors"}}')
    with pytest.raises(FileNotFoundError):
        kiln.load(path)


def test_nothing_is_mapped_but_files():
    with pytest.raises(RuntimeError, match="file path"):
        kiln.load(io.BytesIO(FILES["zip"]), mmap=True)
    with pytest.raises(TypeError, match="map_location"):
        kiln.load(io.BytesIO(FILES["zip"]), map_location=3)
