"""Stores: values by key that the processes of a group share; of one process, a table."""

from __future__ import annotations

import time
from datetime import timedelta

from ..errors import KilnNotImplementedError
from .group import _SINGLE, DistStoreError


class Store:
    """Values by key, as bytes."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}
        self._prefix = ""
        self.timeout = timedelta(minutes=5)

    def set(self, key: str, value: str | bytes) -> None:
        """Set the value of a key."""
        self._values[self._prefix + key] = (
            value.encode() if isinstance(value, str) else bytes(value)
        )

    def get(self, key: str) -> bytes:
        """The value of a key; waits for it until the timeout."""
        self.wait([key])
        return self._values[self._prefix + key]

    def add(self, key: str, amount: int) -> int:
        """Add to a key's number, which begins at 0; gives the sum."""
        total = int(self._values.get(self._prefix + key, b"0")) + amount
        self.set(key, str(total))
        return total

    def compare_set(self, key: str, expected_value: str, desired_value: str) -> bytes:
        """Set a key that has the value expected, or none where "" is; gives what it has then."""
        if self._values.get(self._prefix + key, b"") == expected_value.encode():
            self.set(key, desired_value)
        return self._values.get(self._prefix + key, expected_value.encode())

    def check(self, keys: list[str]) -> bool:
        """Whether all keys have values."""
        return all(self._prefix + k in self._values for k in keys)

    def wait(self, keys: list[str], timeout: timedelta | None = None) -> None:
        """Wait until all keys have values; DistStoreError after the timeout."""
        end = time.monotonic() + (timeout or self.timeout).total_seconds()
        while not self.check(keys):
            if time.monotonic() > end:
                raise DistStoreError(f"wait timeout, keys: {', '.join(keys)}")
            time.sleep(0.01)

    def delete_key(self, key: str) -> bool:
        """Delete a key; whether it was there."""
        return self._values.pop(self._prefix + key, None) is not None

    def num_keys(self) -> int:
        """How many keys have values."""
        return len(self._values)

    def set_timeout(self, timeout: timedelta) -> None:
        """How long `get` and `wait` wait."""
        self.timeout = timeout


class HashStore(Store):
    """A store in this process's memory."""


def _alone(world_size: int | None) -> None:
    if world_size is not None and world_size > 1:
        raise KilnNotImplementedError(
            "Store",
            "a store for more than one process is not built yet",
            f"world_size={world_size}",
            _SINGLE,
        )


class TCPStore(Store):
    """A store that other processes reach by network: of one process, nobody does."""

    def __init__(
        self, host_name: str, port: int = 0, world_size: int | None = None, is_master: bool = False,
        timeout: timedelta = timedelta(minutes=5), wait_for_workers: bool = True, multi_tenant: bool = False,
        master_listen_fd: int | None = None, use_libuv: bool = True,
    ) -> None:  # fmt: skip
        _alone(world_size)
        super().__init__()
        self.host, self.port, self.timeout = host_name, port, timeout


class FileStore(Store):
    """A store that other processes reach through a file: of one process, nobody does."""

    def __init__(self, file_name: str, world_size: int = -1):
        _alone(world_size)
        super().__init__()
        self.path = file_name


class PrefixStore(Store):
    """Another store under keys that begin with a prefix."""

    def __init__(self, prefix: str, store: Store):
        super().__init__()
        self.underlying_store, self.prefix = store, prefix
        self._values, self._prefix = store._values, f"{store._prefix}{prefix}/"
