"""The disk cache: right bytes or none, nothing from strangers, and work goes on without it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
import warnings

import pytest

from kiln.backends.cpu import cache, jit
from kiln.backends.cpu.cache import DiskCache
from kiln.backends.cpu.isa import host_isa
from kiln.config import context
from kiln.errors import KilnCacheWarning

KEY = "a" * 64


@pytest.fixture
def store(tmp_path) -> DiskCache:
    return DiskCache(tmp_path / "cache", 1 << 20)


def entry(store: DiskCache, key: str = KEY):
    return store.directory / f"{key}.bin"


def test_round_trip_is_private_and_leaves_no_temporaries(store):
    assert store.get(KEY) is None
    store.put(KEY, b"object code")
    assert store.get(KEY) == b"object code"
    assert stat.S_IMODE(os.stat(store.directory).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(entry(store)).st_mode) == 0o600
    assert [p.name for p in store.directory.iterdir()] == [f"{KEY}.bin"]
    store.clear()
    assert store.get(KEY) is None


@pytest.mark.parametrize("harm", ["truncate", "flip", "empty", "garbage"])
def test_damaged_entries_are_deleted_and_can_be_rebuilt(store, harm):
    store.put(KEY, b"object code")
    raw = bytearray(entry(store).read_bytes())
    changed = {
        "truncate": raw[:-3],
        "flip": raw[:-1] + bytes([raw[-1] ^ 1]),
        "empty": b"",
        "garbage": b"\x00" * 500,
    }[harm]
    entry(store).write_bytes(changed)
    assert store.get(KEY) is None
    assert not entry(store).exists()
    store.put(KEY, b"object code")
    assert store.get(KEY) == b"object code"


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_files_that_others_can_write_are_not_loaded(store):
    store.put(KEY, b"object code")
    os.chmod(entry(store), 0o666)
    assert store.get(KEY) is None


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_links_are_not_followed(store, tmp_path):
    store.put(KEY, b"object code")
    target = tmp_path / "elsewhere"
    entry(store).rename(target)
    entry(store).symlink_to(target)
    assert store.get(KEY) is None


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_directory_that_others_can_write_is_refused_with_one_warning(tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    os.chmod(shared, 0o777)
    store = DiskCache(shared, 1 << 20)
    with pytest.warns(KilnCacheWarning, match="KILN_CACHE_DIR"):
        store.put(KEY, b"x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store.get(KEY) is None
        store.put(KEY, b"x")
    assert list(shared.iterdir()) == []


def test_directory_that_cannot_be_made_warns_and_work_continues(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    text = "define i64 @test_cache_blocked() { ret i64 7 }\n"
    with context(cache_dir=str(blocked / "kiln")), pytest.warns(KilnCacheWarning, match="file"):
        assert jit.build([text], host_isa())("test_cache_blocked")


def test_eviction_drops_the_least_recently_used(tmp_path):
    store = DiskCache(tmp_path, 10_000)
    for i in range(8):
        store.put(f"{i:064}", bytes(1000))
        os.utime(entry(store, f"{i:064}"), (i, i))
    assert store.get(f"{0:064}") is not None  # now the most recent
    for i in range(8, 12):
        store.put(f"{i:064}", bytes(1000))
    assert store.get(f"{0:064}") is not None
    assert store.get(f"{1:064}") is None
    total = sum(p.stat().st_size for p in tmp_path.iterdir())
    assert total <= 10_000


def test_short_processes_keep_to_the_limit_without_listing_each(tmp_path, monkeypatch):
    listings, entries = [], DiskCache._entries
    monkeypatch.setattr(DiskCache, "_entries", lambda self: listings.append(1) or entries(self))
    for i in range(800):
        DiskCache(tmp_path, 160_000).put(f"{i:064}", bytes(250))
    assert 0 < len(listings) < 400  # 1 in 10 writes as much as is allowed unseen
    assert sum(p.stat().st_size for p in tmp_path.iterdir()) <= 200_000


def test_size_zero_turns_it_off(tmp_path):
    store = DiskCache(tmp_path / "none", 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.put(KEY, b"x")
        assert store.get(KEY) is None
    assert not (tmp_path / "none").exists()


def test_concurrent_writers_never_show_half_an_entry(store):
    blobs = [bytes([i]) * 50_000 for i in range(4)]

    def write(blob: bytes) -> None:
        for _ in range(20):
            store.put(KEY, blob)

    team = [threading.Thread(target=write, args=(b,)) for b in blobs]
    for t in team:
        t.start()
    for _ in range(50):
        assert store.get(KEY) in [None, *blobs]
    for t in team:
        t.join()
    assert store.get(KEY) in blobs


def test_key_depends_on_text_and_isa():
    keys = {cache.make_key(t, i) for t in ("a", "b") for i in ("x", "y")}
    assert len(keys) == 4
    assert cache.make_key("ab", "c") != cache.make_key("a", "bc")


def test_second_process_compiles_nothing(tmp_path):
    code = (
        "from kiln.backends.cpu import cache, jit\n"
        "from kiln.backends.cpu.isa import host_isa\n"
        "jit.build(['define i64 @second() { ret i64 7 }'], host_isa())\n"
        "print(cache.stats.compiles, cache.stats.hits, cache.stats.misses)\n"
    )
    env = {**os.environ, "KILN_CACHE_DIR": str(tmp_path / "c")}
    runs = [
        subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
        for _ in range(2)
    ]
    assert [r.stdout.split() for r in runs] == [["1", "0", "1"], ["0", "1", "0"]]
