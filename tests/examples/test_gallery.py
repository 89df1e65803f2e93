"""The examples reach what they state, and the page shows it."""

from __future__ import annotations

import ast
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
from examples.__main__ import main as command

from examples import gallery

QUICK = "mlp"
NAMES = gallery.names()


@pytest.mark.parametrize(
    "name", [n if n == QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NAMES]
)
def test_an_example_reaches_what_it_states(name, tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("sklearn")
    r = gallery.run(name, small=True, out=tmp_path)
    assert r.reached, str(r)
    assert math.isfinite(r.value)
    assert r.pictures
    for picture in r.pictures:
        assert picture.is_relative_to(tmp_path)
        assert picture.read_bytes().startswith(b"\x89PNG")
    page = gallery.write_page([r], tmp_path).read_text(encoding="utf-8")
    assert all(f'src="{p.name}"' in page for p in r.pictures)
    assert f"/{name}.py" in page


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_short_and_says_what_to_expect(name):
    source = (gallery.HERE / f"{name}.py").read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 150
    assert "xpected" in (ast.get_docstring(ast.parse(source)) or "")


@pytest.mark.parametrize(
    ("value", "expected", "higher", "reached"),
    [
        (0.9, 0.9, True, True),
        (0.8, 0.9, True, False),
        (0.8, 0.9, False, True),
        (1.0, 0.9, False, False),
        (math.nan, 0.9, True, False),
        (math.nan, 0.9, False, False),
    ],
)
def test_reached_or_missed(value, expected, higher, reached, tmp_path):
    r = gallery.Result(
        QUICK, "a <metric>", value, expected, higher, (tmp_path / "a" / "b.png",), 1.0, True
    )
    assert r.reached is reached
    page = gallery.write_page([r], tmp_path).read_text(encoding="utf-8")
    assert ('class="reached"' in page, 'class="missed"' in page) == (reached, not reached)
    assert "a &lt;metric&gt;" in page
    assert 'src="a/b.png"' in page  # beside the page, wherever it is moved
    assert f"<p>{int(reached)} of 1 reached" in page
    assert f'href="#{QUICK}"' in page
    assert "<code>kiln.Trainer</code>" in page  # of the docstring


def test_the_command(tmp_path, monkeypatch, capsys):
    seen = []

    def run(name, small=False, out=Path(), **options):
        seen.append((name, small, out, options))
        return good if len(seen) < 3 else replace(good, value=0.0)

    good = gallery.Result(QUICK, "accuracy", 1.0, 0.9, True, (), 1.0, False)
    monkeypatch.setattr(gallery, "run", run)
    out = ["--out", os.fspath(tmp_path)]
    assert command([QUICK, "--small", *out, "--set", "cell=GRU", "epochs=a=b"]) == 0
    assert seen == [(QUICK, True, tmp_path, {"cell": "GRU", "epochs": "a=b"})]
    assert (tmp_path / "index.html").exists()
    assert command([QUICK, QUICK, *out]) == 1  # the second misses
    assert "missed" in capsys.readouterr().out
    del seen[:]
    assert command(["--all", *out]) in (0, 1)
    assert [name for name, *_ in seen] == NAMES


@pytest.mark.parametrize("wrong", [[], ["nothing"], [QUICK, "--set", "cell"]])
def test_the_command_refuses(wrong, capsys):
    with pytest.raises(SystemExit) as e:
        command(wrong)
    assert e.value.code == 2
    assert capsys.readouterr().err
