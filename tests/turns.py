"""Cases of which a quick suite runs a part, and the full suite all."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable
from typing import Any

import pytest


def in_turn(
    axis: str, turning: Collection, *, always: Collection = (), full: Collection = (), pauses: int = 0,
    **axes: Iterable,
) -> pytest.MarkDecorator:  # fmt: skip
    """Parametrizes `axis` and the other arguments with every combination of their values.

    A quick suite runs each combination of the others with one value of `axis`, its values in turn, so that each
    of them meets most of what the others lead to; and with each of `always`. The full suite runs every
    combination, and those with `full`. An axis `a,b` has pairs for values. After a round of `turning`, as many
    combinations of the others as there are `pauses` are the full suite's alone, but for `always`.
    """
    turning, names = list(turning), axis.split(",")
    cases, others = [], [list(values) for values in axes.values()]
    for places in itertools.product(*map(range, map(len, others))):
        values = [v[i] for v, i in zip(others, places, strict=True)]
        turn = -sum(places) % (len(turning) + pauses)
        now = turning[turn : turn + 1]
        for value in (*turning, *always, *full):
            quick = any(value is v for v in now) or value in always
            mine = value if len(names) > 1 else (value,)
            told = map(_told, (*axes, *names), (*values, *mine))
            marks = () if quick else pytest.mark.slow
            cases.append(pytest.param(*mine, *values, marks=marks, id="-".join(told)))
    return pytest.mark.parametrize((*names, *axes), cases)


def _told(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"{name}={value}"
    known = (getattr(value, a) for a in ("id", "name", "__name__") if hasattr(value, a))
    return str(next(known, value))
