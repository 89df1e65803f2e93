"""Data sets of pictures, from the files in which they are published."""

from .base import VisionDataset
from .cifar import CIFAR10, CIFAR100
from .folder import DatasetFolder, FakeData, ImageFolder
from .mnist import EMNIST, KMNIST, MNIST, FashionMNIST

__all__ = [
    "CIFAR10", "CIFAR100", "EMNIST", "KMNIST", "MNIST", "DatasetFolder", "FakeData", "FashionMNIST", "ImageFolder",
    "VisionDataset",
]  # fmt: skip
