"""Data: loading Fashion-MNIST, other images and tables, the validation split, batches, and images to classify."""

from gpunet.data.arrays import from_arrays
from gpunet.data.config import DataConfig
from gpunet.data.dataset import FASHION_MNIST_CLASSES, Dataset
from gpunet.data.download import fetch
from gpunet.data.files import find, verify
from gpunet.data.images import read_image
from gpunet.data.loader import Loader
from gpunet.data.sources import load
from gpunet.data.split import Split, split

__all__ = [
    "FASHION_MNIST_CLASSES",
    "DataConfig",
    "Dataset",
    "Loader",
    "Split",
    "fetch",
    "find",
    "from_arrays",
    "load",
    "read_image",
    "split",
    "verify",
]
