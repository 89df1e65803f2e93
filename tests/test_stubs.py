"""The committed type stubs are those that the registry gives."""

from kiln.ops import stubs


def test_stubs_are_up_to_date():
    assert stubs.outdated() == [], "run: python -m kiln.ops.stubs"
