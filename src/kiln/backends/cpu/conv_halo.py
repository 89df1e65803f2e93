"""Images as padded NHWC scratch, so that a kernel's loops never meet an edge; and back.

A band of an image's rows is copied, transposed where channels are not neighbours in memory, with
zeros where padding reaches out of the image. Measured at a few percent of the product that reads it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from kiln.backends.cpu.conv_shape import Conv
from kiln.backends.cpu.isa import Isa
from kiln.backends.cpu.microkernel import Epilogue, apply_epilogue
from kiln.backends.cpu.packing import interleave, transpose
from kiln.backends.cpu.patches import Lanes, gather, scatter
from kiln.backends.cpu.text import (
    COMPUTE,
    ITEMSIZE,
    Text,
    lane_mask,
    load_vector,
    store_vector,
)


@dataclass(frozen=True)
class Halo:
    """A band of ``rows`` x ``cols`` pixels of ``pitch`` elements, cut out of one padded image.

    ``strides`` are the image's (channel, row, column) strides in elements; ``origin`` is how far
    above and left of the image padding begins (negative: inside of it).
    """

    dtype: str
    channels: int
    image: tuple[int, int]
    strides: tuple[int, int, int]
    origin: tuple[int, int]
    rows: int
    cols: int
    pitch: int

    @staticmethod
    def pitch_for(channels: int, lanes: int) -> int:
        """Elements from pixel to pixel: whole vectors, but for images of a few channels."""
        return channels if channels * 2 <= lanes else -(-channels // lanes) * lanes

    @property
    def elements(self) -> int:
        """Size of the band, with room for one vector past its end."""
        return self.rows * self.cols * self.pitch + 16

    def emit(self, b: Text, name: str, isa: Isa) -> None:
        """Define ``void name(ptr image, ptr band, i64 first)``; ``first`` counts padded rows."""
        size = ITEMSIZE[self.dtype]
        lanes = isa.lanes(size)
        params = [("ptr noalias readonly", "image"), ("ptr noalias", "band"), ("i64", "first")]
        left = max(0, self.origin[1])
        skip = max(0, -self.origin[1])
        live = max(0, min(self.cols - left, self.image[1] - skip))
        with (
            b.function(name, params, internal=True),
            b.loop(0, self.rows) as row,
        ):
            line = b.at("%band", b.mul(row.index, self.cols * self.pitch), size)
            y = b.add(b.add("%first", row.index), -self.origin[0])
            inside = b.op(f"icmp ult i64 {y}, {self.image[0]}")
            outside = b.op(f"xor i1 {inside}, true")
            with b.when(outside):
                self._zero(b, line, 0, self.cols, lanes)
            with b.when(inside):
                self._zero(b, line, 0, left, lanes)
                offset = b.add(b.mul(y, self.strides[1]), skip * self.strides[2])
                source = b.at("%image", offset, size)
                target = b.at(line, left * self.pitch, size)
                if live:
                    self._line(b, source, target, live, lanes)
                self._zero(b, line, left + live, self.cols, lanes)

    def _zero(self, b: Text, line: str, start: int, stop: int, lanes: int) -> None:
        """Zero the pixels start..stop of a line."""
        count, size = (stop - start) * self.pitch, ITEMSIZE[self.dtype]
        whole = count // lanes * lanes
        place = b.at(line, start * self.pitch, size)
        if whole:
            with b.loop(0, whole, lanes) as i:
                store_vector(b, "zeroinitializer", b.at(place, i.index, size), self.dtype, lanes)
        if count > whole:
            mask = lane_mask(lanes, count - whole)
            rest = b.at(place, whole, size)
            store_vector(b, "zeroinitializer", rest, self.dtype, lanes, mask)

    def _line(self, b: Text, source: str, target: str, live: int, lanes: int) -> None:
        """Copy ``live`` pixels."""
        channel, _, col = self.strides
        together = channel == 1 or self.channels == 1
        if together and col == self.channels == self.pitch:
            self._run(b, source, target, live * self.channels, lanes)
        elif channel == 1:
            with b.loop(0, live) as x:
                place = b.at(source, b.mul(x.index, col), ITEMSIZE[self.dtype])
                where = b.at(target, b.mul(x.index, self.pitch), ITEMSIZE[self.dtype])
                self._run(b, place, where, self.channels, lanes)
        elif self.pitch == self.channels < lanes:
            self._interleaved(b, source, target, live, lanes)
        else:
            self._transposed(b, source, target, live, lanes)

    def _run(self, b: Text, source: str, target: str, count: int, lanes: int) -> None:
        """Copy neighbouring elements; whole vectors are written where the pitch has room."""
        size = ITEMSIZE[self.dtype]
        whole = count // lanes * lanes
        if whole:
            with b.loop(0, whole, lanes) as i:
                value = load_vector(b, b.at(source, i.index, size), self.dtype, lanes)
                store_vector(b, value, b.at(target, i.index, size), self.dtype, lanes)
        if count > whole:
            mask = lane_mask(lanes, count - whole)
            value = load_vector(b, b.at(source, whole, size), self.dtype, lanes, mask)
            room = count == self.channels and self.pitch >= whole + lanes
            rest = b.at(target, whole, size)
            store_vector(b, value, rest, self.dtype, lanes, None if room else mask)

    def _interleaved(self, b: Text, source: str, target: str, live: int, lanes: int) -> None:
        """Few channels: a vector of pixels of each at a time."""
        size, element = ITEMSIZE[self.dtype], COMPUTE[self.dtype]
        grid = Lanes(b, lanes)
        steps = grid.op("mul", grid.iota(), self.strides[2])
        for first, stop, width in _blocks(live, lanes):
            mask = None if width == lanes else lane_mask(lanes, width)
            with b.loop(first, stop, lanes) as x:
                planes = []
                for c in range(self.channels):
                    offset = b.add(b.mul(x.index, self.strides[2]), c * self.strides[0])
                    place = b.at(source, offset, size)
                    if self.strides[2] == 1:
                        planes.append(load_vector(b, place, self.dtype, lanes, mask))
                    else:
                        on = mask or lane_mask(lanes, lanes)
                        planes.append(gather(b, place, steps, element, lanes, on))
                where = b.at(target, b.mul(x.index, self.pitch), size)
                for n, value in enumerate(interleave(b, planes, element, lanes)):
                    left = width * self.channels - n * lanes
                    if left > 0:
                        on = None if left >= lanes else lane_mask(lanes, left)
                        place = b.at(where, n * lanes, size)
                        store_vector(b, value, place, self.dtype, lanes, on)

    def _transposed(self, b: Text, source: str, target: str, live: int, lanes: int) -> None:
        """Squares of pixels x channels, turned in registers."""
        size = ITEMSIZE[self.dtype]
        for first, stop, count in _blocks(self.channels, lanes):
            with b.loop(first, stop, lanes) as c:
                above = b.at(source, b.mul(c.index, self.strides[0]), size)
                below = b.at(target, c.index, size)
                for left, right, width in _blocks(live, lanes):
                    with b.loop(left, right, lanes) as x:
                        place = b.at(above, b.mul(x.index, self.strides[2]), size)
                        where = b.at(below, b.mul(x.index, self.pitch), size)
                        self._square(b, place, where, count, width, lanes)

    def _square(
        self, b: Text, source: str, target: str, channels: int, pixels: int, lanes: int
    ) -> None:
        size, element = ITEMSIZE[self.dtype], COMPUTE[self.dtype]
        mask = None if pixels == lanes else lane_mask(lanes, pixels)
        grid = Lanes(b, lanes)
        vectors = []
        for c in range(lanes):
            place = b.at(source, c * self.strides[0], size)
            if c < channels:  # too many channels for the machine to foresee where each goes on
                b.prefetch(b.at(place, self.strides[1], size), near=False)
            if c >= channels:
                vectors.append("zeroinitializer")
            elif self.strides[2] == 1:
                vectors.append(load_vector(b, place, self.dtype, lanes, mask))
            else:
                steps = grid.op("mul", grid.iota(), self.strides[2])
                on = mask or lane_mask(lanes, lanes)
                vectors.append(gather(b, place, steps, element, lanes, on))
        for x, value in enumerate(transpose(b, vectors, element)[:pixels]):
            store_vector(b, value, b.at(target, x * self.pitch, size), self.dtype, lanes)


def _blocks(count: int, lanes: int) -> list[tuple[int, int, int]]:
    """``count`` as (start, stop, live): whole vectors in a loop, then the rest."""
    whole = count // lanes * lanes
    return [r for r in [(0, whole, lanes), (whole, count, count - whole)] if r[0] < r[1]]


@dataclass(frozen=True)
class Source:
    """Where a kernel reads x channels-last: where it lies, or in padded copies of a unit's images.

    ``image``, ``row`` and ``col`` are strides in elements.
    """

    halo: Halo | None
    image: int
    row: int
    col: int
    offset: int
    size: int

    @staticmethod
    def of(conv: Conv, rows: int, lanes: int) -> Source:
        """The source of ``rows`` rows of y."""
        (top, bottom), (left, right) = conv.padding
        size = ITEMSIZE[conv.dtype]
        if conv.x_strides[1] == 1 and max(top, bottom, left, right) <= 0:
            n, _, h, w = conv.x_strides
            return Source(None, n, h, w, -top * h - left * w, size)
        counts = rows, conv.out[1]
        sizes = zip(counts, conv.stride, conv.window, conv.dilation, strict=True)
        high, wide = ((count - 1) * s + (k - 1) * d + 1 for count, s, k, d in sizes)
        pitch = Halo.pitch_for(conv.c_in, lanes)
        halo = Halo(
            conv.dtype, conv.c_in, conv.image, conv.x_strides[1:], (top, left), high, wide, pitch
        )
        return Source(halo, halo.elements, wide * pitch, pitch, 0, size)

    def shared(self) -> Source:
        """The same where all images have been copied, one after the other."""
        return replace(self, halo=None)

    def bytes_for(self, images: int) -> int:
        """Scratch for the copies."""
        return -(-images * self.halo.elements * self.size // 64) * 64 if self.halo else 0

    def emit(
        self,
        b: Text,
        name: str,
        x: str,
        scratch: str,
        conv: Conv,
        first: str,
        images: str,
        row: str,
    ) -> str:
        """Write the copying, by the halo's function ``name``; returns where the first image begins.

        ``row`` counts padded rows.
        """
        if self.halo is None:
            offset = b.add(b.mul(first, self.image), b.mul(row, self.row))
            return b.at(x, b.add(offset, self.offset), self.size)
        with b.loop(0, images) as j:
            image = b.mul(b.add(first, j.index), conv.x_strides[0])
            band = b.at(scratch, b.mul(j.index, self.image), self.size)
            b.emit(f"call void @{name}(ptr {b.at(x, image, self.size)}, ptr {band}, i64 {row})")
        return scratch


@dataclass(frozen=True)
class Surface:
    """Where NHWC results of ``pitch`` elements a pixel are written to y's own strides.

    ``strides`` are y's (n, c, h, w); the epilogue's columns are pixels.
    """

    dtype: str
    channels: int
    size: tuple[int, int]
    strides: tuple[int, int, int, int]
    cols: int
    pitch: int
    epilogue: Epilogue | None

    def emit(self, b: Text, name: str, isa: Isa) -> None:
        """Define ``void name(ptr band, ptr y, i64 image, i64 first, i64 rows, args)``.

        ``band`` holds lines of ``cols`` pixels, from y's row ``first`` on; ``y`` is the image.
        """
        item = ITEMSIZE[self.dtype]
        lanes = isa.lanes(item)
        params = [("ptr noalias readonly", "band"), ("ptr noalias", "y"), ("i64", "image"),
                  ("i64", "first"), ("i64", "rows"), ("ptr", "args")]  # fmt: skip
        with b.function(name, params, internal=True):
            scratch = ""
            if self.epilogue is not None:
                scratch = b.op(f"alloca [{lanes} x <{lanes} x {COMPUTE[self.dtype]}>], align 64")
            for first, stop, channels in _blocks(self.channels, lanes):
                with b.loop(first, stop, lanes) as c, b.loop(0, "%rows") as r:
                    row = b.add("%first", r.index)
                    line = b.at("%band", b.mul(r.index, self.cols * self.pitch), item)
                    for left, right, pixels in _blocks(self.size[1], lanes):
                        with b.loop(left, right, lanes) as x:
                            offset = b.add(b.mul(x.index, self.pitch), c.index)
                            self._square(b, b.at(line, offset, item), row, x.index, c.index,
                                         channels, pixels, lanes, scratch)  # fmt: skip

    def _square(
        self,
        b: Text,
        source: str,
        row: str,
        x: str,
        c: str,
        channels: int,
        pixels: int,
        lanes: int,
        scratch: str,
    ) -> None:
        item, element = ITEMSIZE[self.dtype], COMPUTE[self.dtype]
        mask = None if pixels == lanes else lane_mask(lanes, pixels)
        vectors = []
        for j in range(lanes):
            if j >= pixels:
                vectors.append("zeroinitializer")
            else:
                vectors.append(
                    load_vector(b, b.at(source, j * self.pitch, item), self.dtype, lanes)
                )
        _, channel, line, col = self.strides
        offset = b.add(b.mul(c, channel), b.add(b.mul(row, line), b.mul(x, col)))
        where = b.at("%y", offset, item)
        turned = transpose(b, vectors, element)[:channels]
        if self.epilogue is None:
            for i, value in enumerate(turned):
                place = b.at(where, i * channel, item)
                b.prefetch(b.at(place, line, item), write=True, near=False)
                self._store(b, value, place, mask, lanes)
            return
        # a loop, as an epilogue may be long
        room = lanes * item
        for i, value in enumerate(turned):
            store_vector(b, value, b.at(scratch, i * room), self.dtype, lanes)
        pixel = b.add(b.mul(row, self.size[1]), x)
        with b.loop(0, channels) as i:
            value = load_vector(b, b.at(scratch, b.mul(i.index, room)), self.dtype, lanes)
            value = apply_epilogue(
                b, self.epilogue, value, self.dtype, lanes, b.add(c, i.index), pixel, "%image", mask
            )
            self._store(b, value, b.at(where, b.mul(i.index, channel), item), mask, lanes)

    def _store(self, b: Text, value: str, place: str, mask: str | None, lanes: int) -> None:
        col = self.strides[3]
        if col == 1:
            store_vector(b, value, place, self.dtype, lanes, mask)
        else:
            grid = Lanes(b, lanes)
            steps, on = grid.op("mul", grid.iota(), col), mask or lane_mask(lanes, lanes)
            scatter(b, value, place, steps, COMPUTE[self.dtype], lanes, on)
