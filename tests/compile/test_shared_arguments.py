"""Arguments that share memory: what a compiled function writes through one, the others see, as in eager mode."""

import numpy as np
import pytest
from tests.turns import in_turn

import kiln
from kiln.errors import CaptureError


def whole_and_part(m):
    return m, m[1:]


def part_and_whole(m):
    return m[:, 1:3], m


def overlapping_rows(m):
    return m[:-1], m[1:]


def overlapping_columns(m):
    return m[:, :3], m[:, 1:]


def transposed(m):
    return m, m.t()


def steps(m):
    return m[:, ::2], m[:, 2:]


def flat_and_row(m):
    return m.view(-1), m[2]


def element(m):
    return m[1], m[1, 2]


def rows_of_columns(m):
    return m[1:, 1:3], m[:3, 1:3].t()


def reshaped(m):
    return m.view(2, 2, 6), m[1].view(3, 2)


def windows(m):
    return m.view(-1)[3:17], m.view(-1)[5:19:2]


PAIRS = [
    whole_and_part, part_and_whole, overlapping_rows, overlapping_columns, transposed, steps, flat_and_row,
    element, rows_of_columns, reshaped, windows,
]  # fmt: skip


def write_first(a, b):
    before = b * 2
    a.mul_(3)
    return before, b + 1, a.sum()


def write_both(a, b):
    a += 1
    b.mul_(2)
    a[..., :1].add_(5)
    return a.sum(), b.sum()


def write_late(a, b):
    c = a.sum() + b.sum()
    b.copy_(b + c)
    return c, a * 1


def matrix():
    return kiln.arange(24.0).reshape(4, 6)


def same(found, wanted):
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-6)


@in_turn("fn", [write_first, write_both, write_late], pair=PAIRS, apart_first=[True, False])
def test_writes_are_seen_through_every_argument(pair, fn, apart_first):
    run = kiln.compile(fn)
    if apart_first:  # a program that takes them for memory of their own is there already
        x, y = (t.clone() for t in pair(matrix()))
        want = [t.clone() for t in (x, y)]
        same(run(x, y), fn(*want))
        same((x, y), want)
    for _ in range(3):
        m, want = matrix(), matrix()
        same(run(*pair(m)), fn(*pair(want)))
        same([m], [want])
    captures = run.captures
    same(run(*pair(m)), fn(*pair(want)))
    assert run.captures == captures


def test_each_way_of_sharing_is_told_apart():
    run = kiln.compile(write_both)
    for size in (4, 4, 5):
        for first in (0, 1, 2, 1, 0, 9):
            m, want = kiln.arange(20.0), kiln.arange(20.0)
            same(
                run(m[1 : 1 + size], m[first : first + size]),
                write_both(want[1 : 1 + size], want[first : first + size]),
            )
            same([m], [want])


def test_three_arguments_and_those_that_share_nothing():
    def fn(a, b, c, d):
        a.add_(1)
        c.mul_(b.clone())
        d.add_(c.sum())
        return a + b

    m, want = matrix(), matrix()
    d, e = kiln.ones(2), kiln.ones(2)
    run = kiln.compile(fn)
    for _ in range(2):
        same([run(m[0], m[1], m[:2], d)], [fn(want[0], want[1], want[:2], e)])
        same((m, d), (want, e))


def test_parts_of_one_tensor_without_common_elements():
    def fn(q, k, v):
        q.mul_(2)
        v.sub_(1)
        return q + k + v

    m, want = matrix(), matrix()
    same([kiln.compile(fn)(*m.chunk(3, 1))], [fn(*want.chunk(3, 1))])
    same([m], [want])


def test_arguments_that_are_only_read_keep_their_own_program():
    run = kiln.compile(lambda a, b: a * b)
    m = kiln.arange(4.0)
    same([run(m[:3].clone(), m[1:].clone()), run(m[:3], m[1:])], [m[:3] * m[1:]] * 2)
    assert run.captures == 1


def test_results_are_views_of_the_arguments():
    def fn(a, b):
        a.add_(1)
        return b, b[1:], a.t(), b.detach()

    m = matrix()
    rows = m[1:]
    got = kiln.compile(fn)(m, rows)
    assert got[0] is rows
    m.zero_()
    assert [t.sum().item() for t in got] == [0.0] * 4


def test_versions_count_once():
    m = matrix()
    rows = m[1:]
    run = kiln.compile(write_first)
    run(m, rows)
    before = m._version
    run(m, rows)
    assert m._version == rows._version == before + 1


def test_large_results_of_programs_share_too():
    run = kiln.compile(lambda x: x * 2)
    m, want = (run(kiln.arange(400_000.0).reshape(400, 1000)) for _ in range(2))
    same(kiln.compile(write_both)(m[:, 10:20], m[5:, 1:]), write_both(want[:, 10:20], want[5:, 1:]))
    same([m], [want])


def test_a_branch_sees_what_was_written():
    def fn(a, b):
        a.add_(1)
        return b * 2 if b.sum() > 4.5 else b * 3

    run = kiln.compile(fn)
    same([run(kiln.ones(3), kiln.ones(2))], [kiln.full((2,), 3.0)])
    for start in (1.0, 2.0, 1.0, 2.0):
        m, want = kiln.full((3,), start), kiln.full((3,), start)
        same([run(m, m[1:])], [fn(want, want[1:])])


def test_gradients_flow_from_what_was_written():
    def fn(a, b, w):
        a.mul_(2)
        return (b * w).sum()

    found = []
    for run in (kiln.compile(fn), fn):
        m, w = matrix(), kiln.full((6,), 0.5, requires_grad=True)
        for _ in range(2):
            run(m, m[1:], w).backward()
        found += [(m, w.grad)]
    same(*found)


def test_what_stays_refused_is_named_and_nothing_is_written():
    m = matrix()
    whole, row = m.numpy(), m.numpy()[1]
    cases = {
        "dtypes differ": (m, m.view(kiln.int32)[1]),
        "read-only or expanded": (m, m[0].expand(4, 6)),
        "don't divide": (m, m.view(-1)[:20].view(4, 5)[:, 1:3]),
    }
    for why, (a, b) in cases.items():
        for first in (True, False):
            run = kiln.compile(lambda a, b: (a.add_(1), b * 1)[1])
            if first:
                run(a.clone(), b.clone())
            with pytest.raises(CaptureError, match=why):
                run(a, b)
            assert (whole[1] == row).all()
            same([m], [matrix()])


def test_a_state_that_shares_memory_with_an_argument_is_followed_or_refused_at_any_call():
    def read(a, state):
        a.add_(1)
        return state[0] * 1 + state[1][:2]

    def write(a, state):
        state[1].add_(1)
        return a * 1

    def both(a, state):
        a.add_(1)
        state[0].mul_(2)
        return state[1] * 1

    refused = 0
    for fn in (read, write, both):
        for pick in (
            lambda p, q: p, lambda p, q: q, lambda p, q: q[:3], lambda p, q: p[:2], lambda p, q: p[1:3],
        ):  # fmt: skip
            (p, q), (v, w) = ((kiln.arange(4.0), kiln.ones(4)) for _ in range(2))
            state, other = [p[1:3], q], [v[1:3], w]
            run = kiln.compile(lambda a, fn=fn, state=state: fn(a, state))
            same([run(kiln.zeros(4))], [fn(kiln.zeros(4), other)])
            try:
                same([run(pick(p, q))], [fn(pick(v, w), other)])
            except CaptureError as e:
                assert "shares memory" in str(e)  # noqa: PT017
                refused += 1
                fn(kiln.zeros(4), other) if fn is not read else None
                run(kiln.zeros(4)) if fn is not read else None
            same((p, q), (v, w))
    assert 0 < refused < 15


def test_a_state_given_the_memory_of_an_argument_later():
    p = kiln.zeros(4)

    def fn(a):
        p.add_(1)
        return a * 1

    run = kiln.compile(fn)
    x = kiln.zeros(8)
    same([run(x)], [kiln.zeros(8)])
    p.data = x[2:6]
    with pytest.raises(CaptureError, match="shares memory"):
        run(x)
    same([x], [kiln.zeros(8)])
