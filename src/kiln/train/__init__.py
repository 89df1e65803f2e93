"""Training: the Trainer, its callbacks, and checkpoints from which it goes on."""

from .callbacks import Callback, EarlyStopping, LambdaCallback, TerminateOnNaN, Timer
from .checkpoints import ModelCheckpoint
from .finder import LRFinder
from .finetune import Unfreeze, freeze, param_groups, unfreeze
from .history import History
from .limits import Limits
from .loggers import Board, CSVLogger, MLflowLogger, TensorBoard, WandbLogger
from .module import TrainingModule
from .schedules import LearningRateScheduler, OneCycle, ReduceLROnPlateau, Schedule
from .seeds import seed_everything
from .trainer import Trainer
from .updates import EMA, GradientClipping

__all__ = [
    "EMA", "Board", "CSVLogger", "Callback", "EarlyStopping", "GradientClipping", "History", "LRFinder", "LambdaCallback",
    "LearningRateScheduler", "Limits", "MLflowLogger", "ModelCheckpoint", "OneCycle", "ReduceLROnPlateau", "Schedule", "TensorBoard",
    "TerminateOnNaN", "Timer", "Trainer", "TrainingModule", "Unfreeze", "WandbLogger", "freeze", "param_groups",
    "seed_everything", "unfreeze",
]  # fmt: skip
