"""What a convolution is: sizes, strides, and where its tensors stand in the argument block."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

from kiln.backends.cpu.microkernel import ARG_WORKSPACE
from kiln.backends.cpu.patches import Patches

ARG_OUT, ARG_IMAGE, ARG_OTHER = 0, 1, 2


@dataclass(frozen=True)
class Conv:
    """One convolution: y[n, co] = sum over ci, ky, kx of w[co, ci, ky, kx] * x[n, ci, ...].

    Pairs are (vertical, horizontal); ``padding`` is ((top, bottom), (left, right)). Strides are in
    elements, (n, c, h, w) for x and y and (co, ci, kh, kw) for w; w's ci counts within a group.
    ``w_offset`` and ``y_offset`` are where (0, 0, 0, 0) lies,
    ``w_group`` is the distance of two groups' weights where it isn't that of w[co]. Whichever tensor is
    written must have rows that follow each other (stride h = width * stride w). ``kept`` weights are the
    same in many calls, so what is made of them alone costs next to nothing.
    """

    n: int
    c_in: int
    image: tuple[int, int]
    c_out: int
    window: tuple[int, int]
    x_strides: tuple[int, int, int, int]
    w_strides: tuple[int, int, int, int]
    y_strides: tuple[int, int, int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    dtype: str = "f32"
    w_offset: int = 0
    y_offset: int = 0
    w_group: int | None = None
    kept: bool = False

    @property
    def prepared(self) -> int:
        """Where a form that lays the weights out finds them in the argument block."""
        return ARG_OTHER if self.kept else ARG_WORKSPACE

    @property
    def out(self) -> tuple[int, int]:
        """Height and width of y."""
        sizes = zip(self.image, self.window, self.stride, self.padding, self.dilation, strict=True)
        high, wide = (max(0, (i + sum(p) - d * (k - 1) - 1) // s + 1) for i, k, s, p, d in sizes)
        return high, wide

    @property
    def taps(self) -> int:
        """Pixels of one window."""
        return self.window[0] * self.window[1]

    @property
    def ci(self) -> int:
        """Input channels of one group."""
        return self.c_in // self.groups

    @property
    def co(self) -> int:
        """Output channels of one group."""
        return self.c_out // self.groups

    @property
    def group_stride(self) -> int:
        """The distance of two groups' weights, in elements."""
        return self.co * self.w_strides[0] if self.w_group is None else self.w_group

    @property
    def channels_last(self) -> bool:
        """Whether y's channels are neighbours in memory."""
        return self.y_strides[1] == 1

    @property
    def flops(self) -> int:
        """Floating point operations of any of the three directions."""
        return 2 * self.n * self.c_out * self.out[0] * self.out[1] * self.ci * self.taps

    def turned(self) -> Conv:
        """The convolution of dy with mirrored weights that gives dx; the stride must be 1."""
        co, ci, ky, kx = self.w_strides
        (kh, kw), sizes = self.window, zip(self.padding, self.window, self.dilation, strict=True)
        (top, bottom), (left, right) = (
            ((k - 1) * d - p[0], (k - 1) * d - p[1]) for p, k, d in sizes
        )
        return replace(
            self, c_in=self.c_out, c_out=self.c_in, image=self.out,
            x_strides=self.y_strides, y_strides=self.x_strides, w_strides=(ci, co, -ky, -kx),
            w_offset=self.w_offset + (kh - 1) * ky + (kw - 1) * kx,
            padding=((top, bottom), (left, right)), w_group=self.group_stride,
        )  # fmt: skip

    def pixels(self) -> Conv:
        """The convolution whose windows are y's single pixels."""
        return replace(
            self, c_in=self.c_out, image=self.out, window=(1, 1), stride=(1, 1), dilation=(1, 1),
            padding=((0, 0), (0, 0)), x_strides=self.y_strides,
        )  # fmt: skip

    def patches(self) -> Patches:
        """The operand that reads x."""
        return Patches(
            self.dtype, self.image, self.window, self.out, self.stride, self.dilation,
            (self.padding[0][0], self.padding[1][0]), self.x_strides[1:],
        )  # fmt: skip


def flat_stride(sizes: tuple[int, int], strides: tuple[int, ...]) -> int | None:
    """The stride of a (rows, columns) plane seen as one axis, or None where it isn't one."""
    return merge(tuple(zip(sizes, strides, strict=True)))


def merge(axes: tuple[tuple[int, int], ...]) -> int | None:
    """The one stride that walks ``axes`` of (size, stride) in order, or None."""
    live = [(size, stride) for size, stride in axes if size != 1]
    if not live:
        return 1
    for (_, outer), (size, inner) in itertools.pairwise(live):
        if outer != size * inner:
            return None
    return live[-1][1]


def prefers_channels_last(conv: Conv) -> bool:
    """Whether the kernels of a convolution are faster where x and y lie channels-last.

    Their vectors run over a group's output channels (over groups, for depthwise ones).
    """
    return conv.co >= 16 or (conv.ci == conv.co == 1 and conv.groups >= 16)


@dataclass(frozen=True)
class Weights:
    """w as rows[co] x K(ci, ky, kx): in place, or copied to the workspace by a phase before.

    ``strides`` are (co, k) and ``group`` the distance of two groups, where the product reads it;
    ``source`` lists the (size, stride) of what must be copied there, outermost first.
    """

    strides: tuple[int, int]
    group: int
    source: tuple[tuple[int, int], ...] = ()

    @property
    def slot(self) -> int:
        """Where the product finds it in the argument block."""
        return ARG_WORKSPACE if self.source else ARG_OTHER

    @staticmethod
    def of(conv: Conv) -> Weights:
        """The weights of ``conv``; any strides."""
        co, ci, ky, kx = conv.w_strides
        axes = ((conv.ci, ci), (conv.window[0], ky), (conv.window[1], kx))
        step = merge(axes)
        if step is not None:
            return Weights((co, step), conv.group_stride)
        k = conv.ci * conv.taps
        return Weights((k, 1), conv.co * k, ((conv.c_out, co), *axes))
