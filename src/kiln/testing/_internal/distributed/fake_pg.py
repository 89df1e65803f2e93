"""A store for groups that only pretend to have other members."""

from ....distributed.store import HashStore


class FakeStore(HashStore):
    """A store in this process's memory."""
