"""Data sets of pictures, from the files in which they are published."""

from .base import VisionDataset
from .cifar import CIFAR10, CIFAR100
from .folder import DatasetFolder, FakeData, ImageFolder
from .mnist import EMNIST, KMNIST, MNIST, FashionMNIST
from .numbers import STL10, SVHN, USPS
from .scenes import CocoCaptions, CocoDetection, VOCDetection, VOCSegmentation

__all__ = [
    "CIFAR10", "CIFAR100", "EMNIST", "KMNIST", "MNIST", "STL10", "SVHN", "USPS", "CocoCaptions", "CocoDetection",
    "DatasetFolder", "FakeData", "FashionMNIST", "ImageFolder", "VOCDetection", "VOCSegmentation", "VisionDataset",
]  # fmt: skip
