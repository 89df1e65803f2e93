"""Event files without TensorBoard: their bytes by the format's own rules."""

import struct

import numpy as np
import pytest

from kiln.board import SummaryWriter
from kiln.board.records import crc32c, read_records, record
from kiln.board.wire import fields
from kiln.errors import KilnError


def test_checksums():
    # RFC 3720, appendix B.4, and the check value of the catalogue of CRCs
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    long = np.random.default_rng(0).integers(0, 256, 70_001).astype(np.uint8).tobytes()
    table = [0] * 256
    for i in range(256):
        c = i
        for _ in range(8):
            c = c >> 1 ^ 0x82F63B78 if c & 1 else c >> 1
        table[i] = c
    crc = 0xFFFFFFFF
    for byte in long:
        crc = table[(crc ^ byte) & 255] ^ crc >> 8
    assert crc32c(long) == crc ^ 0xFFFFFFFF


def test_records_that_are_corrupt(tmp_path):
    path = tmp_path / "r"
    path.write_bytes(record(b"one") + record(b"two")[:-2])
    assert list(read_records(path)) == [b"one"]  # what a crash leaves
    bad = bytearray(record(b"one"))
    bad[13] ^= 1
    path.write_bytes(bad)
    with pytest.raises(KilnError, match="corrupt"):
        list(read_records(path))
    bad[0] ^= 1
    path.write_bytes(bad)
    with pytest.raises(KilnError, match="length"):
        list(read_records(path))


def said(folder):
    (path,) = folder.glob("events.out.tfevents.*")
    return [dict(fields(e)) for e in read_records(path)]


def test_events_are_buffered_and_flushed(tmp_path):
    w = SummaryWriter(tmp_path, max_queue=3)
    for i in range(3):
        w.add_scalar("a", i, i)
    assert len(said(tmp_path)) == 1
    w.add_scalar("a", 3, 3)
    assert len(said(tmp_path)) == 5
    w.add_scalar("a", 4, 4)
    w.flush()
    events = said(tmp_path)
    assert events[0][3] == b"brain.Event:2"
    steps = [e.get(2, 0) for e in events[1:]]
    assert steps == [0, 1, 2, 3, 4]
    (value,) = (v for _, v in fields(events[-1][5]))
    content = dict(fields(value))
    assert (content[1], struct.unpack("<f", content[2])) == (b"a", (4.0,))
    w.close()
    w.close()
    w.add_scalar("a", 5, 5)  # a closed writer begins a new file
    w.close()
    assert len(list(tmp_path.iterdir())) == 2


def test_the_folder_without_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with SummaryWriter(comment="_LR_0.1") as w:
        assert w.get_logdir().startswith("runs")
        assert w.log_dir.endswith("_LR_0.1")
    assert (tmp_path / w.log_dir).is_dir()


def test_bad_values(tmp_path):
    with SummaryWriter(tmp_path) as w:
        for bad in (
            lambda: w.add_histogram("h", np.zeros(0)), lambda: w.add_histogram_raw("h", 0, 1, 2, 3, 4, [1], [1, 2]),
            lambda: w.add_audio("a", np.zeros((2, 3))), lambda: w.add_video("v", np.zeros((2, 3))),
            lambda: w.add_embedding(np.zeros(3)), lambda: w.add_embedding(np.zeros((3, 2)), ["a"]),
            lambda: w.add_hparams({"a": object()}, {}), lambda: w.add_mesh("m", np.zeros(3)),
            lambda: w.add_custom_scalars_marginchart(["a"]), lambda: w.add_images("i", np.zeros((1, 2, 3, 3))),
        ):  # fmt: skip
            with pytest.raises(ValueError):  # noqa: PT011
                bad()
        for bad in (
            lambda: w.add_scalar("a", np.zeros(2)), lambda: w.add_hparams([], {}),
            lambda: w.add_hparams({"a": 1}, {}, {"a": ["x"]}), lambda: w.add_image("i", np.zeros((2, 2))),
        ):  # fmt: skip
            with pytest.raises(TypeError):
                bad()
