"""What carries messages between the loader and one worker: a socket that hands over open files too.

Every worker has one of its own, without locks or threads that a killed process could leave in disorder: its death
is the end of the stream. A message that is long travels as an anonymous file, so what is written to the
socket itself is short, and whoever finds it writable can write a whole message without waiting.
"""

from __future__ import annotations

import os
import selectors
import socket
import struct
import sys
import weakref
from typing import Any

from ...runtime.shared import CAN_SHARE, anonymous_file

_HEADER = struct.Struct("<QII")  # length, number of files, whether the body is in the last file
_LONG = 1 << 14
_MOST_FILES = 250  # Linux hands over 253 at once
_SELECTOR = getattr(selectors, "PollSelector", selectors.SelectSelector)

_ours: weakref.WeakSet[Channel] = weakref.WeakSet()
"""The loader's ends in this process: a forked child must not keep them open."""


class Channel:
    """One end of a stream of messages."""

    def __init__(self, sock: socket.socket):
        self.sock = sock

    @staticmethod
    def pair() -> tuple[Channel, Channel]:
        """The loader's end and the worker's."""
        ours, theirs = map(Channel, socket.socketpair())
        _ours.add(ours)
        return ours, theirs

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self.sock.fileno()

    def close(self) -> None:
        """Close this end; the other one comes to the end of the stream."""
        self.sock.close()

    def send(self, body: bytes, files: list[int] | None = None) -> None:
        """Send a message with open files; ConnectionError where nobody reads any more."""
        files = list(files or ())
        if len(files) > _MOST_FILES:
            raise ValueError(f"a message carries {_MOST_FILES} files at most, not {len(files)}")
        if not CAN_SHARE or len(body) <= _LONG:
            self._send(_HEADER.pack(len(body), len(files), 0) + body, files)
            return
        fd = anonymous_file(0)
        try:
            rest = memoryview(body)
            while rest:
                rest = rest[os.write(fd, rest) :]
            self._send(_HEADER.pack(len(body), len(files) + 1, 1), [*files, fd])
        finally:
            os.close(fd)

    def _send(self, text: bytes, files: list[int]) -> None:
        sent = socket.send_fds(self.sock, [text], files) if files else self.sock.send(text)
        if sent < len(text):
            self.sock.sendall(memoryview(text)[sent:])

    def receive(self) -> tuple[bytes, list[int]]:
        """The next message and its files, which belong to the caller; EOFError at the end of the stream."""
        files: list[int] = []
        try:
            if CAN_SHARE:
                head, files, flags, _ = socket.recv_fds(self.sock, _HEADER.size, _MOST_FILES + 1)
                if flags & socket.MSG_CTRUNC:
                    raise OSError("too many open files: raise the limit (ulimit -n)")
            else:
                head = self.sock.recv(_HEADER.size)
            if not head:
                raise EOFError
            head += self._read(_HEADER.size - len(head))
            length, _, filed = _HEADER.unpack(head)
            return (_contents(files.pop(), length) if filed else self._read(length)), files
        except ConnectionResetError:
            raise EOFError from None
        except BaseException:
            for fd in files:
                os.close(fd)
            raise

    def _read(self, n: int) -> bytes:
        parts = []
        while n:
            part = self.sock.recv(n)
            if not part:
                raise EOFError
            parts.append(part)
            n -= len(part)
        return b"".join(parts)


class Waiter:
    """Waits until a channel can be read, or the process behind it is gone."""

    def __init__(self, channel: Channel, sentinel: Any = None):
        self._selector = _SELECTOR()
        self._channel = channel
        self._selector.register(channel, selectors.EVENT_READ, "channel")
        if sentinel is not None and sys.platform != "win32":
            self._selector.register(sentinel, selectors.EVENT_READ, "sentinel")

    def readable(self, timeout: float | None = None) -> bool | None:
        """Whether there is something to read; False after `timeout` seconds, None where the process is gone."""
        ready = {key.data for key, _ in self._selector.select(timeout)}
        return True if "channel" in ready else (None if ready else False)

    def writable(self) -> bool:
        """Wait until a message can be sent, or received; gives whether one can be sent."""
        self._selector.modify(
            self._channel, selectors.EVENT_READ | selectors.EVENT_WRITE, "channel"
        )
        try:
            return any(
                events & selectors.EVENT_WRITE or key.data == "sentinel"
                for key, events in self._selector.select()
            )
        finally:
            self._selector.modify(self._channel, selectors.EVENT_READ, "channel")

    def close(self) -> None:
        """Wait for nothing any more."""
        self._selector.close()


def _contents(fd: int, length: int) -> bytes:
    try:
        parts, at = [], 0
        while at < length:
            part = os.pread(fd, length - at, at)
            if not part:
                raise EOFError
            parts.append(part)
            at += len(part)
        return b"".join(parts)
    finally:
        os.close(fd)


def _leave() -> None:
    for channel in list(_ours):
        channel.close()
    _ours.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave)
