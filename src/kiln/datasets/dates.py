"""Dates as people write them, and the same in ISO 8601: a translation whose rules are known."""

from __future__ import annotations

import datetime
from typing import NamedTuple

import numpy as np

MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december",
)  # fmt: skip
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_FIRST, _DAYS = datetime.date(1930, 1, 1), 45_000
_FORMS = (
    "{day} {month} {year}", "{month} {day}, {year}", "{day} {short} {year}", "{short} {day} {year}",
    "{weekday}, {day} {month} {year}", "{weekday} {month} {day}, {year}", "{day}/{number:02}/{year}",
    "{day}.{number}.{year}", "the {nth} of {month} {year}", "{month} the {nth}, {year}", "{day} {short} '{two:02}",
)  # fmt: skip


class Dates(NamedTuple):
    """Pairs of a date as written and in ISO 8601; no date is in both."""

    train: list[tuple[str, str]]
    test: list[tuple[str, str]]


def load_dates(train: int = 10_000, test: int = 1_000, seed: int = 0) -> Dates:
    """Pairs such as ("monday, 3 march 1997", "1997-03-03"), of years 1930 to 2053, made by rule.

    Two digits of a year are of 1930 to 2029. The same seed gives the same pairs everywhere.
    """
    r = np.random.Generator(np.random.PCG64(seed))
    days = r.permutation(_DAYS)
    held_out = max(1, _DAYS * test // (train + test))
    parts = []
    for pool, count in ((days[held_out:], train), (days[:held_out], test)):
        picked = pool[r.integers(0, len(pool), count)]
        forms = r.integers(0, len(_FORMS), count)
        parts.append([_pair(int(d), int(f)) for d, f in zip(picked, forms, strict=True)])
    return Dates(*parts)


def _pair(day: int, form: int) -> tuple[str, str]:
    date = _FIRST + datetime.timedelta(days=day)
    pattern = _FORMS[form]
    if "{two" in pattern and date.year > 2029:
        pattern = _FORMS[2]
    month = MONTHS[date.month - 1]
    ending = "th" if date.day in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(date.day % 10, "th")  # fmt: skip
    text = pattern.format(
        day=date.day, month=month, short=month[:3], number=date.month, year=date.year, two=date.year % 100,
        weekday=DAYS[date.weekday()], nth=f"{date.day}{ending}",
    )  # fmt: skip
    return text, date.isoformat()
