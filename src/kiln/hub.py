"""Models from folders that hold a `hubconf.py`, and files from the network: `torch.hub`.

A folder's code is run, as it is by PyTorch: load from folders that you trust. Repositories are not fetched.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlparse
from urllib.request import Request, urlopen

from .errors import KilnError, KilnNotImplementedError, KilnValueError

__all__ = [
    "download_url_to_file",
    "get_dir",
    "help",
    "list",
    "load",
    "load_state_dict_from_url",
    "set_dir",
]

HASH_REGEX = re.compile(r"-([a-f0-9]*)\.")  # resnet18-5c106cde.pth
_HASHED = re.compile(r"-([a-f0-9]{8,})\.")
_folder: str | None = None


def _get_torch_home() -> str:
    """$TORCH_HOME, or torch in the user's cache directory."""
    home = os.environ.get("TORCH_HOME")
    if home is None:
        home = str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torch")
    return str(Path(home).expanduser())


def get_dir() -> str:
    """Where downloads are kept: `set_dir`'s, $TORCH_HOME/hub, or hub in the user's cache directory."""
    return str(Path(_get_torch_home()) / "hub") if _folder is None else _folder


def set_dir(d: str | os.PathLike) -> None:
    """Keep downloads in another folder."""
    global _folder
    _folder = os.path.expanduser(d)


def _hubconf(repo_or_dir: Any, source: str) -> ModuleType:
    if source not in ("github", "local"):
        raise KilnValueError("hub", "no such source", repr(source), "'local'")
    if source == "github":
        raise KilnNotImplementedError(
            "hub", "repositories are not fetched from GitHub", repr(repo_or_dir),
            "clone it, and pass its folder with source='local'",
        )  # fmt: skip
    folder = os.path.expanduser(repo_or_dir)
    path = os.path.join(folder, "hubconf.py")
    if not os.path.exists(path):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    spec = importlib.util.spec_from_file_location("hubconf", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(folder)
    missing = [
        p for p in getattr(module, "dependencies", ()) if importlib.util.find_spec(p) is None
    ]
    if missing:
        raise KilnError(
            "hub", "Missing dependencies: " + ", ".join(missing), folder, "pip install them"
        )
    return module


def _entry(module: ModuleType, model: Any) -> Callable[..., Any]:
    if not isinstance(model, str):
        raise KilnValueError("hub", "a model is named by a string", repr(model), "")
    found = getattr(module, model, None)
    if not callable(found):
        raise KilnError(
            "hub",
            f"Cannot find callable {model} in hubconf",
            module.__file__,
            ", ".join(_names(module)),
        )
    return found


def _names(module: ModuleType) -> Any:
    return [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]


def list(
    github: str, force_reload: bool = False, skip_validation: bool = False, trust_repo: Any = None, verbose: bool = True,
    source: str = "local",
) -> Any:  # fmt: skip
    """The models of a folder."""
    return _names(_hubconf(github, source))


def help(
    github: str, model: str, force_reload: bool = False, skip_validation: bool = False, trust_repo: Any = None,
    source: str = "local",
) -> str | None:  # fmt: skip
    """What a folder says about a model."""
    return _entry(_hubconf(github, source), model).__doc__


def load(
    repo_or_dir: str | os.PathLike, model: str, *args: Any, source: str = "github", trust_repo: Any = None,
    force_reload: bool = False, verbose: bool = True, skip_validation: bool = False, **kwargs: Any,
) -> Any:  # fmt: skip
    """A model of a folder that holds a `hubconf.py`: `source="local"`. Its code is run.

    Errors: KilnNotImplementedError for a repository on GitHub, FileNotFoundError, KilnError where there is no
    such model or a package that it needs is missing.
    """
    return _entry(_hubconf(repo_or_dir, source), model)(*args, **kwargs)


def download_url_to_file(
    url: str, dst: str | os.PathLike, hash_prefix: str | None = None, progress: bool = True
) -> None:
    """Write what is at an address (https:, http:, file:) to a file, at once or not at all.

    `hash_prefix` is how the SHA-256 of it begins; KilnError where it begins otherwise.
    """
    if urlparse(url).scheme not in ("https", "http", "file"):
        raise KilnValueError("hub", "no such kind of address", url, "https:, http: or file:")
    dst = Path(os.path.expanduser(dst))
    digest = hashlib.sha256()
    fd, draft = tempfile.mkstemp(prefix=f".{dst.name}.", suffix=".part", dir=dst.parent)
    try:
        with (
            os.fdopen(fd, "wb") as out,
            urlopen(Request(url, headers={"User-Agent": "kiln.hub"})) as answer,
        ):
            while chunk := answer.read(1 << 20):
                digest.update(chunk)
                out.write(chunk)
        if hash_prefix is not None and not digest.hexdigest().startswith(hash_prefix):
            raise KilnError(
                "hub", f"invalid hash value (expected \"{hash_prefix}\", got \"{digest.hexdigest()}\")", url,
                "the file is another one, or was damaged on its way: nothing was kept",
            )  # fmt: skip
        shutil.move(draft, dst)
    finally:
        Path(draft).unlink(missing_ok=True)


_download_url_to_file = download_url_to_file


def load_state_dict_from_url(
    url: str, model_dir: str | None = None, map_location: Any = None, progress: bool = True, check_hash: bool = False,
    file_name: str | None = None, weights_only: bool = False,
) -> Any:  # fmt: skip
    """Load what is at an address, kept in `model_dir` (hub's folder of checkpoints) for the next time.

    With `check_hash` the file's name says how its SHA-256 begins (`name-<hash>.pth`).
    """
    from .io import load as load_file

    folder = Path(model_dir or Path(get_dir()) / "checkpoints")
    folder.mkdir(parents=True, exist_ok=True)
    name = file_name or os.path.basename(urlparse(url).path)
    path = folder / name
    if not path.exists():
        found = _HASHED.search(name) if check_hash else None
        if progress:
            print(f'Downloading: "{url}" to {path}', file=sys.stderr)
        download_url_to_file(url, path, found[1] if found else None, progress)
    return load_file(path, map_location=map_location, weights_only=weights_only)
