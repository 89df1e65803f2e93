"""Random bits in kernels: Philox4x32-10 (Salmon et al., 2011), a block of four words for four elements.

Element i of a draw is word i % 4 of block counter + i // 4. The block number is the low 64 bits of
Philox's counter, the rest of it is 0; the key words are the low and high halves of the 64-bit key.
"""

from __future__ import annotations

from kiln.backends.cpu.ir import Builder, Val, vec

_LOW = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def anywhere(b: Builder, key: Val, counter: Val, position: Val) -> Val:
    """The words at any positions, a block computed for each lane."""
    lanes = position.lanes
    key, counter = b.splat(key, lanes), b.splat(counter, lanes)
    block = b.bin("add", counter, b.bin("lshr", position, b.const(position.ty, 2)))
    w0, w1, w2, w3 = (b.conv("trunc", w, "i32") for w in _block(b, key, block))
    bit0, bit1 = (
        b.icmp("ne", b.bin("and", position, b.const(position.ty, k)), b.const(position.ty, 0))
        for k in (1, 2)
    )
    return b.select(bit1, b.select(bit0, w3, w2), b.select(bit0, w1, w0))


def run(b: Builder, key: Val, counter: Val, first: Val, lanes: int, aligned: bool) -> Val:
    """The words at ``lanes`` positions from ``first`` on; ``aligned``: that is a multiple of four.

    Takes scalars and computes each block once. ``lanes`` is a power of two from 4 on.
    """
    blocks = lanes // 4 if aligned else lanes // 2
    block = b.add(counter, b.bin("lshr", first, b.i64(2)))
    if blocks > 1:
        block = b.bin("add", b.splat(block, blocks), b.iota("i64", blocks))
    w0, w1, w2, w3 = _block(b, b.splat(key, blocks), block)
    half, low = b.const(w0.ty, 32), b.const(w0.ty, _LOW)
    first_two = b.bin("or", b.bin("and", w0, low), b.bin("shl", w1, half))
    last_two = b.bin("or", b.bin("and", w2, low), b.bin("shl", w3, half))
    if blocks == 1:
        both = b.insert(b.insert(Val("poison", "<2 x i64>"), first_two, 0), last_two, 1)
    else:
        order = [k // 2 + blocks * (k % 2) for k in range(2 * blocks)]
        both = b.shuffle(first_two, last_two, order)
    words = b.bitcast(both, vec("i32", 4 * blocks))
    if aligned:
        return words
    shifted = [b.shuffle(words, None, range(k, k + lanes)) for k in range(4)]
    bit0, bit1 = (b.icmp("ne", b.bin("and", first, b.i64(k)), b.i64(0)) for k in (1, 2))
    odd, even = b.select(bit0, shifted[3], shifted[2]), b.select(bit0, shifted[1], shifted[0])
    return b.select(bit1, odd, even)


def _block(b: Builder, key: Val, block: Val) -> list[Val]:
    """The four words of each block in the low halves of i64 lanes; the high halves are arbitrary."""
    ty = key.ty
    low, half = b.const(ty, _LOW), b.const(ty, 32)
    m0, m1 = (b.const(ty, m) for m in _MULTIPLIERS)
    x0, x1 = block, b.bin("lshr", block, half)
    x2 = x3 = b.const(ty, 0)
    k0, k1 = key, b.bin("lshr", key, half)
    for turn in range(10):
        if turn:
            k0, k1 = (b.bin("add", k, b.const(ty, w)) for k, w in zip((k0, k1), _WEYL, strict=True))
        # Both factors below 2**32: LLVM sees one 32-bit multiplication and drops the mask.
        p0, p1 = b.bin("mul", b.bin("and", x0, low), m0), b.bin("mul", b.bin("and", x2, low), m1)
        x0 = b.bin("xor", b.bin("xor", b.bin("lshr", p1, half), x1), k0)
        x2 = b.bin("xor", b.bin("xor", b.bin("lshr", p0, half), x3), k1)
        x1, x3 = p1, p0
    return [x0, x1, x2, x3]
