"""Files from a server that breaks off, changes its mind, or isn't there."""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from kiln.datasets import fetch

CONTENT = np.random.default_rng(0).integers(0, 256, 300_000, np.uint8).tobytes()
SHA = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server():
    """A server with one file: `breaks` says after how many bytes each answer ends too early."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            s = self.server
            asked = self.headers.get("Range")
            s.asked.append(asked)
            if self.path != "/file.bin":
                self.send_error(404)
                return
            start = 0
            if asked and s.ranges and self.headers.get("If-Range", s.etag) == s.etag:
                start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start and start >= len(s.content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(s.content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body = s.content[start:]
            self.send_response(206 if start else 200)
            if start:
                self.send_header(
                    "Content-Range", f"bytes {start}-{len(s.content) - 1}/{len(s.content)}"
                )
            self.send_header("Content-Length", str(len(body)))
            if s.etag:
                self.send_header("ETag", s.etag)
            self.end_headers()
            self.wfile.write(body[: s.breaks.pop(0)] if s.breaks else body)
            self.close_connection = True

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as s:
        s.content, s.etag, s.ranges, s.breaks, s.asked = CONTENT, '"one"', True, [], []
        s.url = f"http://127.0.0.1:{s.server_port}/file.bin"
        thread = threading.Thread(target=s.serve_forever)
        thread.start()
        yield s
        s.shutdown()
        thread.join()


def test_a_file_is_fetched_once(server, tmp_path):
    path = tmp_path / "deep" / "file.bin"
    for _ in range(2):
        assert fetch(server.url, path, sha256=SHA, md5=hashlib.md5(CONTENT).hexdigest()) == path
    assert path.read_bytes() == CONTENT
    assert server.asked == [None]
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]
    path.write_bytes(CONTENT[:-1])  # what is damaged is fetched again
    fetch(server.url, path, sha256=SHA)
    assert path.read_bytes() == CONTENT


def test_it_goes_on_where_it_broke(server, tmp_path):
    server.breaks = [1000, 5000]
    path = fetch(server.url, tmp_path / "file.bin", sha256=SHA)
    assert path.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000-", "bytes=6000-"]


def test_a_later_call_goes_on(server, tmp_path):
    server.breaks = [1000, 0, 0, 0]
    path = tmp_path / "file.bin"
    with pytest.raises(RuntimeError, match="1,000 bytes are kept") as e:
        fetch(server.url, path)
    assert str(path) in str(e.value)
    assert not path.exists()
    assert fetch(server.url, path).read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=1000-"


@pytest.mark.parametrize("checked", [True, False])
def test_another_version_is_begun_anew(server, tmp_path, checked):
    server.breaks = [1000, 0, 0, 0]
    with pytest.raises(RuntimeError, match="kept"):
        fetch(server.url, tmp_path / "file.bin")
    server.content, server.etag = CONTENT[::-1], '"two"'
    sha = hashlib.sha256(server.content).hexdigest() if checked else None
    assert fetch(server.url, tmp_path / "file.bin", sha256=sha).read_bytes() == server.content


def test_a_server_that_knows_no_ranges_nor_versions(server, tmp_path):
    server.ranges, server.etag, server.breaks = False, None, [1000]
    assert fetch(server.url, tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.asked == [None, None]


def test_all_was_there_already(server, tmp_path):
    (tmp_path / ".file.bin.part").write_bytes(CONTENT)
    assert fetch(server.url, tmp_path / "file.bin", sha256=SHA).read_bytes() == CONTENT


def test_a_wrong_checksum(server, tmp_path):
    with pytest.raises(RuntimeError, match="SHA-256 sum differs") as e:
        fetch(server.url, tmp_path / "file.bin", sha256="0" * 64)
    assert len(str(e.value).splitlines()) == 3
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_there(server, tmp_path):
    with pytest.raises(RuntimeError, match="HTTP 404"):
        fetch(server.url + "x", tmp_path / "file.bin")
    assert len(server.asked) == 1  # asking again would not help
    with pytest.raises(ValueError, match="no such kind"):
        fetch("ftp://example.org/file", tmp_path / "file.bin")


def test_without_a_network(tmp_path):
    with pytest.raises(RuntimeError, match="can't fetch") as e:
        fetch("http://127.0.0.1:9/file.bin", tmp_path / "file.bin")
    _, received, help = str(e.value).splitlines()
    assert received == "received: http://127.0.0.1:9/file.bin"
    assert help == f"help: without a network, put it there yourself: {tmp_path / 'file.bin'}"
    assert list(tmp_path.iterdir()) == []


def test_several_at_once(server, tmp_path):
    server.breaks = [1000]
    path, failures = tmp_path / "file.bin", []

    def run():
        try:
            assert fetch(server.url, path, sha256=SHA).read_bytes() == CONTENT
        except Exception as e:
            failures.append(e)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert failures == []
    assert len(server.asked) == 2  # one transfer, which broke once


def test_the_cache_and_local_files(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "here.bin").write_bytes(CONTENT)
    path = fetch((tmp_path / "here.bin").as_uri(), sha256=SHA)
    assert path.read_bytes() == CONTENT
    assert (tmp_path / "cache") in path.parents
