"""A lock that processes share: a file that one of them makes, and that the others wait to see gone."""

from __future__ import annotations

import os
import time
import warnings


class FileBaton:
    """Held by the process whose `try_acquire` made the file.

    `wait_seconds` lie between two looks of `wait`, which warns once after `warn_after_seconds`, where given.
    """

    def __init__(
        self,
        lock_file_path: str,
        wait_seconds: float = 0.1,
        warn_after_seconds: float | None = None,
    ):
        self.lock_file_path = lock_file_path
        self.wait_seconds = wait_seconds
        self.warn_after_seconds = warn_after_seconds
        self.fd: int | None = None

    def try_acquire(self) -> bool:
        """Whether the file was made, at once or not at all."""
        try:
            self.fd = os.open(self.lock_file_path, os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            return False
        return True

    def wait(self) -> None:
        """Return when the file is gone."""
        began, warned = time.monotonic(), self.warn_after_seconds is None
        while os.path.exists(self.lock_file_path):
            time.sleep(self.wait_seconds)
            if not warned and time.monotonic() - began > (self.warn_after_seconds or 0):
                warned = True
                warnings.warn(
                    f"waiting for the lock file '{self.lock_file_path}', which another process holds "
                    "or left behind",
                    stacklevel=2,
                )

    def release(self) -> None:
        """Give it to the next one: the file goes."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None
        os.remove(self.lock_file_path)
