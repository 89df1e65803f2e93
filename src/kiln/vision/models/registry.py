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
KNOWN: dict[str, type[WeightsEnum] | None] = {}
_BASE = "https://download.pytorch.org/models/"
_PREPARED = {
    "convnext_base": (224, 232, "bilinear"),
    "convnext_large": (224, 232, "bilinear"),
    "convnext_small": (224, 230, "bilinear"),
    "convnext_tiny": (224, 236, "bilinear"),
    "efficientnet_b0_rwightman": (224, 256, "bicubic"),
    "efficientnet_b1_rwightman": (240, 256, "bicubic"),
    "efficientnet_b1": (240, 255, "bilinear"),
    "efficientnet_b2_rwightman": (288, 288, "bicubic"),
    "efficientnet_b3_rwightman": (300, 320, "bicubic"),
    "efficientnet_b4_rwightman": (380, 384, "bicubic"),
    "efficientnet_b5_lukemelas": (456, 456, "bicubic"),
    "efficientnet_b6_lukemelas": (528, 528, "bicubic"),
    "efficientnet_b7_lukemelas": (600, 600, "bicubic"),
    "efficientnet_v2_l": (480, 480, "bicubic"),
    "efficientnet_v2_m": (480, 480, "bilinear"),
    "efficientnet_v2_s": (384, 384, "bilinear"),
    "inception_v3_google": (299, 342, "bilinear"),
    "mnasnet0_75": (224, 232, "bilinear"),
    "mnasnet1_3": (224, 232, "bilinear"),
    "resnext101_64x4d": (224, 232, "bilinear"),
    "shufflenetv2_x1_5": (224, 232, "bilinear"),
    "shufflenetv2_x2_0": (224, 232, "bilinear"),
    "swin_b": (224, 238, "bicubic"),
    "swin_s": (224, 246, "bicubic"),
    "swin_t": (224, 232, "bicubic"),
    "swin_v2_b": (256, 272, "bicubic"),
    "swin_v2_s": (256, 260, "bicubic"),
    "swin_v2_t": (256, 260, "bicubic"),
    "vit_l_16": (224, 242, "bilinear"),
}
"""The side that pictures are cut to, the one they are resized to before, and how, where not 224, 256 (232 of V2) and bilinear."""


class WeightsEnum(Enum):
    """Weights of one model, each a file's name."""

    @property
    def url(self) -> str:
        """Where the file is published."""
        return _BASE + self.value

    @property
    def meta(self) -> dict[str, Any]:
        """The names of the classes, where they are those of COCO or Pascal VOC: `weights.meta["categories"]`."""
        from . import _meta

        if self.value.startswith("keypoint"):
            return {"categories": _meta.PERSON, "keypoint_names": _meta.JOINTS}
        if not self.name.startswith("COCO"):
            return {}
        return {"categories": _meta.VOC if "VOC" in self.name else _meta.COCO}

    @property
    def transforms(self) -> Callable[..., Any]:
        """Makes what prepares pictures as they were prepared in training: `weights.transforms()(picture)`."""
        from ..transforms import _presets

        if self.name.startswith("COCO"):
            if "VOC" not in self.name:
                return _presets.ObjectDetection
            return functools.partial(_presets.SemanticSegmentation, resize_size=520)
        if self.name.startswith("KINETICS"):
            large = self.value.startswith("s3d")
            cut, side = ((224, 224), (256, 256)) if large else ((112, 112), (128, 171))
            return functools.partial(_presets.VideoClassification, crop_size=cut, resize_size=side)
        usual = (224, 232 if self.name.endswith("K_V2") else 256, "bilinear")
        cut, side, how = _PREPARED.get(self.value.rpartition("-")[0], usual)
        options: dict[str, Any] = {
            "crop_size": cut,
            "resize_size": side,
            "interpolation": _presets.InterpolationMode(how),
        }
        if self.value.startswith("efficientnet_v2_l"):
            options |= {"mean": (0.5,) * 3, "std": (0.5,) * 3}
        elif self.value.startswith("vgg16_features"):
            options |= {"mean": (0.48235, 0.45882, 0.40784), "std": (1.0 / 255.0,) * 3}
        return functools.partial(_presets.ImageClassification, **options)

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
        KNOWN[build.__name__] = known
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


def get_model_weights(name: str | Callable[..., Any]) -> type[WeightsEnum]:
    """The enum of a model's weights, by its name or its function; ValueError where none are published."""
    model_name = name if isinstance(name, str) else name.__name__
    known = KNOWN.get(model_name.lower())
    if known is None:
        raise KilnValueError(
            "get_model_weights",
            f"no weights are known of {model_name}",
            model_name,
            "list_models()",
        )
    return known


def get_weight(name: str) -> WeightsEnum:
    """Weights by their full name, as `ResNet50_Weights.IMAGENET1K_V2`; ValueError where there are none."""
    enum, _, member = name.partition(".")
    for known in KNOWN.values():
        if known is not None and known.__name__ == enum and member in known.__members__:
            return known[member]
    raise KilnValueError(
        "get_weight", f"Unable to find weights {name}", name, "e.g. ResNet50_Weights.DEFAULT"
    )
