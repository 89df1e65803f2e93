"""Cases of which a quick suite runs a part, and the full suite all."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable
from typing import Any

import pytest


def in_turn(axis: str, turning: Collection, **axes: Iterable) -> pytest.MarkDecorator:
    """Parametrizes `axis` and the other arguments with every combination of their values.

    A quick suite runs each combination of the others with one value of `axis`, its values in turn; so each
    of them meets most of what the others lead to. The full suite runs every combination.
    """
    cases, others = [], [list(values) for values in axes.values()]
    for places in itertools.product(*map(range, map(len, others))):
        values = [v[i] for v, i in zip(others, places, strict=True)]
        told = [_told(a, v) for a, v in zip(axes, values, strict=True)]
        for k, value in enumerate(turning):
            marks = () if (sum(places) + k) % len(turning) == 0 else pytest.mark.slow
            name = "-".join([*told, _told(axis, value)])
            cases.append(pytest.param(value, *values, marks=marks, id=name))
    return pytest.mark.parametrize((axis, *axes), cases)


def _told(name: str, value: Any) -> str:
    return f"{name}={value}" if isinstance(value, bool) else getattr(value, "name", str(value))
