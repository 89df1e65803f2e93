"""The name by which this process knows Kiln: reprs and the names of types begin with it."""

name = "kiln"
"""`kiln`; `torch` where PyTorch programs run (`kiln.compat.torch`), which compare such texts."""

_homes: dict[type, str] = {}  # of classes that are shown under another name: where they are defined


def rename(cls: type, module: str) -> None:
    """Have a class of Kiln say that it is defined in this module."""
    home = cls.__module__
    try:
        cls.__module__ = module
    except TypeError:  # a class that Python does not let one change
        return
    _homes.setdefault(cls, home)


def home(cls: type) -> str:
    """The module in which a class is defined, whatever it says."""
    return _homes.get(cls, cls.__module__)
