"""Layers under Keras's names, with Keras's arguments, defaults and layout of weights: channels in the last dimension."""

# ruff: noqa: F401, F403

from ..layer import Layer
from ..model import Input, InputLayer
from .attention import AdditiveAttention, Attention, MultiHeadAttention
from .convolution import *
from .core import *
from .dropping import *
from .normalization import *
from .pictures import *
from .pooling import *
from .preprocessing import *
from .recurrent import *
from .reshaping import *
