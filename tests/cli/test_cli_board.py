"""`kiln board`: TensorBoard is started on a folder, and what is wrong is said in three lines."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request

import pytest

from kiln.board import SummaryWriter
from kiln.cli import main


def test_it_serves(tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed: extra [board]")
    with SummaryWriter(tmp_path / "first") as w:
        w.add_scalar("loss", 0.5, 1)
    started = subprocess.Popen(
        [sys.executable, "-m", "kiln.cli", "board", str(tmp_path), "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        line = next(line for line in started.stdout if "shown at" in line)
        address = re.search(r"http://\S+/", line)[0]
        with urllib.request.urlopen(f"{address}data/logdir", timeout=60) as answer:
            assert json.loads(answer.read()) == {"logdir": str(tmp_path)}
    finally:
        started.kill()
        started.wait()
        started.stdout.close()


def test_without_tensorboard(monkeypatch, tmp_path, capsys):
    for name in [m for m in sys.modules if m.partition(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert main(["board", str(tmp_path)]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "[board] needs the package tensorboard, which is not installed",
        "received: tensorboard.program",
        "help: pip install 'kiln-dl[board]'",
    ]


def test_a_file_is_no_folder(tmp_path, capsys):
    (tmp_path / "events").write_text("")
    assert main(["board", str(tmp_path / "events")]) == 1
    assert "not a folder" in capsys.readouterr().err.splitlines()[0]
