"""Pictures in files as tensors, and back."""

from __future__ import annotations

import pytest

import kiln
from kiln.vision import io

pytest.importorskip("PIL", reason="Pillow is not installed: extra [vision]")


def test_a_png_file_holds_the_pixels(tmp_path):
    pixels = kiln.arange(3 * 4 * 5, dtype=kiln.uint8).reshape(3, 4, 5)
    io.write_png(pixels, tmp_path / "a.png")
    assert kiln.equal(io.read_image(tmp_path / "a.png"), pixels)
    assert kiln.equal(io.decode_image(str(tmp_path / "a.png"), "RGB"), pixels)
    gray = io.read_image(str(tmp_path / "a.png"), io.ImageReadMode.GRAY)
    assert gray.shape == (1, 4, 5)
    assert io.read_image(tmp_path / "a.png", io.ImageReadMode.RGB_ALPHA).shape == (4, 4, 5)
    io.write_png(gray, tmp_path / "b.png")
    assert kiln.equal(io.read_image(tmp_path / "b.png"), gray)


def test_jpeg_files_are_near(tmp_path):
    pixels = kiln.full((3, 16, 16), 90, dtype=kiln.uint8)
    io.write_jpeg(pixels, tmp_path / "a.jpg", quality=95)
    back = io.decode_jpeg(io.read_file(tmp_path / "a.jpg"))
    assert (back.int() - pixels.int()).abs().max() <= 2


def test_wrong_bytes_and_pixels_are_refused(tmp_path):
    with pytest.raises(RuntimeError, match="no picture"):
        io.decode_image(kiln.arange(20, dtype=kiln.uint8))
    for wrong in (kiln.ones(3), kiln.zeros(0, dtype=kiln.uint8)):
        with pytest.raises(RuntimeError, match="expected bytes"):
            io.decode_image(wrong)
    for wrong in (kiln.ones(3, 4, 4), kiln.zeros(2, 4, 4, dtype=kiln.uint8)):
        with pytest.raises(RuntimeError, match="expected pixels"):
            io.encode_png(wrong)
    with pytest.raises(FileNotFoundError):
        io.read_image(tmp_path / "none.png")
    with pytest.raises(NotImplementedError):
        io.read_video("a.mp4")
