"""Event files, read back with TensorBoard's own reader."""

from __future__ import annotations

import numpy as np
import pytest

import kiln
from kiln.board import SummaryWriter


def events(folder):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed: extra [board]")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = EventAccumulator(str(folder))
    out.Reload()
    return out


def test_scalars(tmp_path):
    with SummaryWriter(tmp_path) as board:
        for i in range(5):
            board.add_scalar("loss", kiln.tensor(1.0 / (i + 1)), i)
        board.add_scalar("time", 2.5, 7, walltime=123.0)
    read = events(tmp_path)
    assert [(e.step, e.value) for e in read.Scalars("loss")] == [
        (i, pytest.approx(1 / (i + 1))) for i in range(5)
    ]
    assert read.Scalars("time")[0].wall_time == 123.0


def test_pictures_and_text(tmp_path):
    from PIL import Image

    rgb = np.zeros((3, 4, 5), np.float32)
    rgb[0] = 1
    with SummaryWriter(tmp_path) as board:
        board.add_image("red", kiln.from_numpy(rgb), 1)
        board.add_image("gray", np.full((4, 5), 128, np.uint8), 1, dataformats="HW")
        board.add_text("note", "**hello**", 1)
    read = events(tmp_path)
    image = read.Images("red")[0]
    assert (image.width, image.height) == (5, 4)
    import io

    with Image.open(io.BytesIO(image.encoded_image_string)) as picture:
        assert picture.getpixel((0, 0)) == (255, 0, 0)
    assert read.Tensors("note/text_summary")[0].tensor_proto.string_val[0] == b"**hello**"


def test_bad_values(tmp_path):
    with SummaryWriter(tmp_path) as board:
        with pytest.raises(TypeError, match="one number"):
            board.add_scalar("loss", "text")
        with pytest.raises(TypeError, match="dataformats"):
            board.add_image("x", np.zeros((2, 2)))


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RuntimeError, match="can't write event files"):
        SummaryWriter(tmp_path / "file")


def test_videos_and_figures(tmp_path):
    with SummaryWriter(tmp_path) as board:
        board.add_video("v", kiln.rand(4, 5, 3, 6, 8), 1)
    (image,) = events(tmp_path).Images("v")
    assert (image.width, image.height) == (16, 12)
    assert image.encoded_image_string[:6] == b"GIF89a"
