"""The names that public PyTorch programs use: each is there under the alias, or says what is missing when it is used."""

from __future__ import annotations

from pathlib import Path

import pytest

import kiln
from kiln.compat import report
from kiln.refusal import Refusal

NAMES = (Path(__file__).parent / "names.txt").read_text().split()


def test_no_name_is_missing():
    assert [n for n in NAMES if report.status(n)[0] == "missing"] == []


def test_what_is_refused_is_named_in_full_and_says_what_to_do():
    refused = [n for n in NAMES if report.status(n)[0] == "refused"]
    assert refused
    for name in refused:
        found = report._object(name)
        with pytest.raises(NotImplementedError) as e:
            found() if isinstance(found, Refusal) else kiln.zeros(2, dtype=found)
        lines = str(e.value).splitlines()
        assert lines[-1].startswith("help: ")
        assert lines[0].partition("]")[0].rpartition(".")[2].strip("[") == name.rpartition(".")[2]
