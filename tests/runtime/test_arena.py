"""The memory plan: values that live at the same time never overlap, and little is wasted."""

from hypothesis import given
from hypothesis import strategies as st

from kiln.runtime.arena import ALIGN, Interval, plan

SPANS = st.tuples(st.integers(0, 5000), st.integers(0, 20), st.integers(0, 6))


def padded(v: Interval) -> int:
    return -(-v.size // ALIGN) * ALIGN


@given(st.lists(SPANS, max_size=40))
def test_plans_are_safe_and_tight(spans):
    values = [Interval(size, start, start + length) for size, start, length in spans]
    offsets, total = plan(values)
    assert len(offsets) == len(values)
    for i, (v, at) in enumerate(zip(values, offsets, strict=True)):
        assert at % ALIGN == 0
        assert at >= 0
        assert at + v.size <= total
        for w, other in zip(values[:i], offsets[:i], strict=True):
            apart = v.end < w.start or w.end < v.start
            assert apart or at + v.size <= other or other + w.size <= at
    assert total <= sum(map(padded, values))
    busiest = max(
        (sum(padded(v) for v in values if v.start <= t <= v.end) for t in range(30)), default=0
    )
    assert total >= busiest
    assert plan(values) == (offsets, total)


def test_a_chain_needs_two_slots():
    values = [Interval(1 << 12, i, i + 1) for i in range(50)]
    assert plan(values)[1] == 2 << 12


def test_values_that_end_before_others_start_share():
    assert plan([Interval(100, 0, 0), Interval(100, 1, 1)])[0] == [0, 0]
    assert plan([]) == ([], 0)
