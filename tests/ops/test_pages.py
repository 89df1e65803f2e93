"""The API reference: a page for each public function, whose examples show what they say."""

from __future__ import annotations

import json

import pytest

import kiln
from kiln.cli import main
from kiln.ops.pages import Page, check, pages
from kiln.ops.registry import FUNCTIONS


@pytest.fixture(scope="module")
def found() -> dict[str, Page]:
    return {p.name: p for p in pages()}


def test_each_public_function_has_a_page_under_one_of_its_names(found):
    covered = {id(p.fn) for p in found.values()}
    names = [
        n for n in FUNCTIONS if not n.endswith("_") and not n.rpartition(".")[2].startswith("_")
    ]
    assert [n for n in names if id(FUNCTIONS[n]) not in covered] == []
    assert len(covered) == len(found)


def test_examples_run_and_show_what_the_pages_say(found):
    wrong = {name: bad for name, p in found.items() if (bad := check(p.text()))}
    assert wrong == {}
    without = [n for n, p in found.items() if p.samples and not p.example]
    assert without == []
    assert found["nn.functional.mse_loss"].example  # which autocast wraps


def test_an_example_that_shows_something_else_is_found(found):
    text = found["exp"].text()
    (bad,) = check(
        text.replace("tensor([", "tensor([7., ", 2).replace("tensor([7., ", "tensor([", 1)
    )
    assert "is now" in bad


def test_facts(found):
    text = found["softmax"].text()
    assert "kiln.softmax(input, dim, dtype=None, *, out=None)" in text
    assert "| gradient | yes |" in text
    assert "float32, float64, bfloat16, float16 |" in text
    assert "`Tensor.softmax`" in text
    assert "KilnIndexError: [softmax] dimension out of range" in text
    assert "| gradient | no |" in found["isnan"].text()
    assert "shares memory" in found["reshape"].text()


def test_the_command_writes_pages_and_what_a_comparison_found(tmp_path, capsys):
    aspects = {
        "values": {"passed": 11, "failed": 1},
        "gradients": {"passed": 4},
        "name": {"passed": 1},
    }
    record = tmp_path / "run.json"
    record.write_text(json.dumps({"entries": {"linalg.qr": {"aspects": aspects}}}))
    out = tmp_path / "docs"
    assert main(["docs", "--out", str(out), "--only", "linalg.", "--coverage", str(record)]) == 0
    assert "values 11 of 12, gradients 4 of 4 |" in (out / "kiln.linalg.qr.md").read_text()
    assert "not in PyTorch's operator database" in (out / "kiln.linalg.vander.md").read_text()
    index = (out / "index.md").read_text()
    assert f"Kiln {kiln.__version__}" in index
    assert "[qr](kiln.linalg.qr.md)" in index
    assert f"{len(list(out.iterdir())) - 1} pages" in capsys.readouterr().out
