"""Where PyTorch and torchvision have what Kiln has: the names under which programs and files know it.

One rule: `torch.X` is `kiln.X`. `MODULES` holds the exceptions.
"""

from __future__ import annotations

import importlib
import re
from functools import cache
from types import ModuleType

MODULES = {
    "torch": "kiln",
    "torch.utils.data": "kiln.data",
    **{f"torch.optim.{name}": "kiln.optim.adam" for name in ("adamax", "adamw", "nadam", "radam")},
    **{
        f"torch.optim.{name}": "kiln.optim.adaptive"
        for name in ("adadelta", "adagrad", "asgd", "rmsprop", "rprop")
    },
    **{f"torch.optim.{name}": "kiln.optim.matrices" for name in ("_adafactor", "_muon")},
    "torch.optim._multi_tensor": "kiln.optim",
    **dict.fromkeys(
        (
            "torch.ao",
            "torch.nn.intrinsic",
            "torch.nn.qat",
            "torch.nn.quantizable",
            "torch.nn.quantized",
        ),
        "kiln.quantization",
    ),
    "torch.__config__": "kiln.building",
    "torch.__future__": "kiln.building",
    "torch._tensor": "kiln.tensor",
    "torch._C._functorch": "kiln.func.level",
    "torch.distributed._tensor.experimental": "kiln.distributed.tensor.experimental",
    "torch._tensor_str": "kiln.printing",
    "torch._VF": "kiln",
    "torch.accelerator.memory": "kiln.accelerator",
    **{
        f"torch.{place}.amp.{n}": f"kiln.{place}.amp"
        for place in ("cpu", "cuda")
        for n in ("autocast_mode", "grad_scaler")
    },
    **{f"torch.cuda.{n}": "kiln.cuda" for n in ("graphs", "streams")},
    "torch.signal.windows.windows": "kiln.signal.windows",
    **{
        f"torch.{place}.comm": "kiln.nn.parallel.scatter_gather"
        for place in ("cuda", "nn.parallel")
    },
    **{
        f"torch.utils.benchmark.utils.{n}": "kiln.utils.benchmark"
        for n in ("common", "compare", "timer")
    },
    "torch.utils.benchmark.utils": "kiln.utils.benchmark",
    "torch.autograd.anomaly_mode": "kiln.autograd.anomaly",
    "torch.autograd.grad_mode": "kiln.autograd.modes",
    "torch.autograd.gradcheck": "kiln.autograd.checks",
    "torch.profiler.profiler": "kiln.profiler",
    "torchvision": "kiln.vision",
    "torchvision.datasets.vision": "kiln.vision.datasets.base",
    "torchvision.transforms.transforms": "kiln.vision.transforms.classes",
    "torchvision.transforms.autoaugment": "kiln.vision.transforms.augment",
    **{
        f"torchvision.ops.{name}": "kiln.vision.regions"
        for name in (
            "deform_conv",
            "feature_pyramid_network",
            "poolers",
            "roi_align",
            "roi_pool",
            "ps_roi_align",
        )
    },
    **{
        f"torchvision.ops.{name}": "kiln.vision.ops"
        for name in (
            "boxes",
            "focal_loss",
            "misc",
            "stochastic_depth",
            "drop_block",
            "giou_loss",
            "diou_loss",
            "ciou_loss",
        )
    },
    **{
        f"torchvision.models.{name}": "kiln.vision.models.classic"
        for name in ("alexnet", "densenet", "squeezenet", "vgg")
    },
    **{
        f"torchvision.models.{name}": "kiln.vision.models.mobile"
        for name in ("efficientnet", "mobilenet", "mobilenetv2")
    },
    **{
        f"torchvision.datasets.{n}": "kiln.vision.datasets.numbers"
        for n in ("stl10", "svhn", "usps")
    },
    **{f"torchvision.datasets.{n}": "kiln.vision.datasets.scenes" for n in ("coco", "voc")},
    "torchvision.models._api": "kiln.vision.models.registry",
    **{
        f"torchvision.models.segmentation.{n}": "kiln.vision.models.segmentation"
        for n in ("deeplabv3", "fcn", "lraspp", "segmentation")
    },
    "torchvision.models.video.resnet": "kiln.vision.models.video",
    "torchvision.models.video.s3d": "kiln.vision.models.video",
    "torchvision.models.detection.image_list": "kiln.vision.models.detection.transform",
    "torchvision.models.detection.ssdlite": "kiln.vision.models.detection.ssd",
    "torchvision.models.mnasnet": "kiln.vision.models.small",
    "torchvision.models.shufflenetv2": "kiln.vision.models.small",
}
"""What each name stands for; all others follow from their parent's."""

_BARE = {
    f"kiln.{n}"
    for n in ("device", "dtypes", "formats", "random", "shape", "streams", "tensor", "ops.legacy")
}
"""Where classes are defined that PyTorch has in `torch` itself."""
_ROOMS = {
    "kiln.board": "torch.utils.tensorboard", "kiln.data": "torch.utils.data", "kiln.vision": "torchvision", "kiln": "torch",
}  # fmt: skip
"""Where other classes are, by the room of Kiln that they are in."""


_CLASSES = {
    "torchvision.models.detection.image_list": ("ImageList",),
    "torchvision.models.densenet": ("_DenseLayer", "_DenseBlock", "_Transition"),
    "torchvision.models.efficientnet": ("MBConv", "FusedMBConv"),
    "torchvision.models.mnasnet": ("_InvertedResidual",),
    "torchvision.models.mobilenetv2": ("InvertedResidual",),
    "torchvision.models.segmentation.deeplabv3": ("ASPP", "ASPPConv", "ASPPPooling", "DeepLabHead"),
    "torchvision.models.segmentation.fcn": ("FCNHead",),
    "torchvision.models.segmentation.lraspp": ("LRASPPHead",),
    "torchvision.models.shufflenetv2": ("InvertedResidual",),
    "torchvision.models.squeezenet": ("Fire",),
    "torchvision.ops.feature_pyramid_network": (
        "FeaturePyramidNetwork", "LastLevelMaxPool", "LastLevelP6P7",
    ),
    "torchvision.ops.misc": (
        "Conv2dNormActivation", "FrozenBatchNorm2d", "MLP", "Permute", "SqueezeExcitation",
    ),
    "torchvision.ops.poolers": ("MultiScaleRoIAlign",),
}  # fmt: skip
"""The classes of modules that share one of Kiln's, where the class's name is not the module's."""


@cache
def public_module(ours: str, name: str) -> str:
    """The module in which PyTorch has a class of a module of Kiln."""
    if ours in _BARE:
        return "torch"
    known = [public for public, module in MODULES.items() if module == ours]
    for public in known:
        same = public.rpartition(".")[2].replace("_", "") == name.lower()
        if len(known) == 1 or same or name in _CLASSES.get(public, ()):
            return public
    if ours.startswith("kiln.optim.lr_scheduler"):
        return "torch.optim.lr_scheduler"
    if ours.startswith("kiln.distributions."):
        words = re.sub("(?<!^)(?=[A-Z])", "_", name).lower()
        if target_of(f"torch.distributions.{words}") is not None:
            return f"torch.distributions.{words}"
    room = next(r for r in _ROOMS if f"{ours}.".startswith(f"{r}."))
    return _ROOMS[room] + ours.removeprefix(room)


def target_of(name: str) -> ModuleType | None:
    """The module of Kiln that a module's name under the alias stands for, None where there is none."""
    ours = MODULES.get(name)
    parent, _, last = name.rpartition(".")
    if ours is None:
        above = target_of(parent) if parent else None
        if above is None:
            return None
        ours = f"{above.__name__}.{last}"
    try:
        return importlib.import_module(ours)
    except ModuleNotFoundError as e:
        if e.name is None or not f"{ours}.".startswith(f"{e.name}."):
            raise  # a package that Kiln's module needs
    value = getattr(target_of(parent), last, None) if parent else None
    return value if isinstance(value, ModuleType) else None
