"""Names of models and of their weights.

Kiln brings no weights along: an enum of weights names the file, and where it is published. Given as
`weights=`, it is read from hub's folder of checkpoints (`kiln.hub.get_dir()`), or fetched there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from enum import Enum
from typing import Any

from ...errors import KilnError, KilnValueError

MODELS: dict[str, Callable[..., Any]] = {}
_BASE = "https://download.pytorch.org/models/"


class WeightsEnum(Enum):
    """Weights of one model, each a file's name."""

    @property
    def url(self) -> str:
        """Where the file is published."""
        return _BASE + self.value

    def get_state_dict(self, progress: bool = True, check_hash: bool = False, **_: Any) -> Any:
        """The tensors, from hub's folder of checkpoints or fetched; KilnError where neither works."""
        from ...hub import load_state_dict_from_url

        try:
            return load_state_dict_from_url(
                self.url, progress=progress, check_hash=check_hash, weights_only=True
            )
        except OSError as e:
            raise KilnError(
                str(self), f"the weights are not here, and can't be fetched: {e}", self.url,
                f"put {self.value} into the folder 'checkpoints' of kiln.hub.get_dir(), or weights=None",
            ) from None  # fmt: skip


def weights(name: str, *files: str, **named: str) -> type[WeightsEnum]:
    """An enum of weights: IMAGENET1K_V1, _V2, … in order, and DEFAULT the newest."""
    members = {f"IMAGENET1K_V{i}": f for i, f in enumerate(files, 1)} | named
    members["DEFAULT"] = list(members.values())[len(files) - 1]
    return WeightsEnum(name, members)  # type: ignore[return-value]


def model(
    known: type[WeightsEnum] | None = None, published: Callable[[dict], tuple[dict, Callable]] | None = None
) -> Callable[[Callable], Callable]:  # fmt: skip
    """Register a function that builds a model, and let it take `weights`, `pretrained` and `progress`.

    `published` makes of the options those of a model that weights fit, and what is done to it once they are loaded.
    """

    def register(build: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(build)
        def make(
            *, weights: Any = None, progress: bool = True, pretrained: bool = False, **options: Any
        ) -> Any:
            chosen = "DEFAULT" if weights is None and pretrained else weights
            if isinstance(chosen, str):
                if known is None or chosen.rpartition(".")[2] not in known.__members__:
                    raise KilnValueError(
                        build.__name__, f"Unable to find weights {chosen}", chosen, "weights=None"
                    )
                chosen = known[chosen.rpartition(".")[2]]
            if chosen is not None and (known is None or not isinstance(chosen, known)):
                raise KilnValueError(
                    build.__name__, "weights of another model", repr(chosen), "weights=None"
                )
            if chosen is None:
                return build(**options)
            options, finish = published(options) if published else (options, lambda net: net)
            net = build(**options)
            net.load_state_dict(chosen.get_state_dict(progress=progress))
            finish(net)
            return net

        MODELS[build.__name__] = make
        return make

    return register


def list_models(module: Any = None, include: Any = None, exclude: Any = None) -> list[str]:
    """The names of the models, by patterns of the shell."""
    import fnmatch

    names = sorted(MODELS)
    if include is not None:
        wanted = [include] if isinstance(include, str) else include
        names = [n for n in names if any(fnmatch.fnmatch(n, p) for p in wanted)]
    if exclude is not None:
        unwanted = [exclude] if isinstance(exclude, str) else exclude
        names = [n for n in names if not any(fnmatch.fnmatch(n, p) for p in unwanted)]
    return names


def get_model_builder(name: str) -> Callable[..., Any]:
    """The function that builds a model."""
    if name.lower() not in MODELS:
        raise KilnValueError("get_model", f"Unknown model {name}", name, ", ".join(sorted(MODELS)))
    return MODELS[name.lower()]


def get_model(name: str, **config: Any) -> Any:
    """A model by its name."""
    return get_model_builder(name)(**config)
