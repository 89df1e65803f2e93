"""Models of pictures, with the names that published weights have for their parts."""

from . import detection as detection
from . import segmentation as segmentation
from . import video as video
from .classic import *  # noqa: F403
from .convnext import *  # noqa: F403
from .googlenet import *  # noqa: F403
from .inception import *  # noqa: F403
from .mobile import *  # noqa: F403
from .mobilenetv3 import *  # noqa: F403
from .registry import WeightsEnum as WeightsEnum
from .registry import get_model as get_model
from .registry import get_model_builder as get_model_builder
from .registry import get_model_weights as get_model_weights
from .registry import get_weight as get_weight
from .registry import list_models as list_models
from .regnet import *  # noqa: F403
from .resnet import *  # noqa: F403
from .small import *  # noqa: F403
from .swin_transformer import *  # noqa: F403
from .vision_transformer import *  # noqa: F403
