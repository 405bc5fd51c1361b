"""Data options: the data set, its split, scaling and augmentation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gpunet.errors import ConfigError
from gpunet.options import Options, option
from gpunet.tasks import CLASSIFICATION, TASKS

FASHION_MNIST = "fashion-mnist"


@dataclass(frozen=True)
class DataConfig(Options):
    """The data set, and how it is split, scaled and augmented. A relative path of the data set is made absolute.

    >>> config = gn.data.DataConfig(validation_fraction=0.1, flip=True)
    >>> config.data, config.mirrors
    ('fashion-mnist', True)
    """

    data: str = option(
        FASHION_MNIST,
        "fashion-mnist, or a path: a folder with a folder of pictures for each class (or train/, val/ and test/ of "
        "such), an NPZ file, a table (CSV, TSV, Parquet), a folder of IDX files or of CIFAR's binary files",
    )
    task: str = option(
        CLASSIFICATION,
        "what is predicted: classification, one class of several; regression, numbers; multilabel, labels that each "
        "hold (1) or not (0)",
        choices=TASKS,
        written=False,
    )
    image_size: tuple[int, ...] = option(
        (),
        "folders of pictures: fit them into this height and width, or square",
        low=1,
        lengths=(0, 1, 2),
    )
    channels: int = option(
        0, "folders of pictures: 1 reads them as grey, 3 as RGB; 0: as grey if all of them are", choices=(0, 1, 3)
    )
    skip_damaged: bool = option(False, "folders of pictures: leave out damaged files, with a warning")
    image_shape: tuple[int, ...] = option(
        (), "rows of pixels: height, width and, unless 1, channels of an image", low=1, lengths=(0, 2, 3)
    )
    label_column: str = option(
        "",
        "tables: the column with the labels (default: that called label, class, target or y, else the only one of "
        "words, else the last); for a regression or several labels, columns separated by commas",
    )
    value_range: tuple[float, ...] = option(
        (),
        "the pixel values that become 0 and 1 (default: 0 1, 0 16 or 0 255, or the training images' extremes)",
        lengths=(0, 2),
    )
    test_fraction: float = option(
        0.2,
        "if the data have no test part: the fraction that is split off for it",
        low=0,
        high=1,
        low_open=True,
        high_open=True,
    )
    validation_fraction: float = option(
        0.2, "fraction of the training images held out for validation", low=0, high=1, low_open=True, high_open=True
    )
    split_seed: int = option(0, "seed of the stratified train/validation split", low=0, high=2**32 - 1)
    train_images: int = option(
        0, "train on a stratified subset of this many of the images that are not held out; 0: on all", low=0
    )
    refit: bool = option(
        False,
        "train on the validation images as well, once all choices are made; needs --keep last, and the validation "
        "metrics are then those of images trained on",
    )
    standardize: str = option(
        "none",
        "after scaling to [0, 1]: none; channel: subtract each channel's mean and divide by its standard deviation "
        "over the training images; pixel: the same per pixel",
        choices=("none", "channel", "pixel"),
    )
    stream: str = option(
        "auto",
        "packed data: always: read the images from the disk while training; never: hold them in memory; auto: stream "
        "a part that takes more than a quarter of the memory that is left. The results are the same",
        choices=("auto", "always", "never"),
    )
    shuffle: str = option(
        "full",
        "order of the training images in an epoch: full, or, for packed data, blocks: shards in random order, and the "
        "images of every four of them among each other, so that they are read from the disk together",
        choices=("full", "blocks"),
    )
    flip: bool = option(False, "augmentation: flip each training image horizontally with probability 1/2")
    alternate_flip: bool = option(
        False, "augmentation: flip each training image horizontally every other epoch, half of them in the first"
    )
    shift: int = option(0, "augmentation: shift each training image by up to this many pixels in each direction", low=0)
    cutout: int = option(0, "augmentation: side length of a square set to zero in each training image", low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.value_range and not self.value_range[0] < self.value_range[1]:
            raise ConfigError(f"value_range must be a lower and a higher number, got {self.value_range}")
        if self.data != FASHION_MNIST:  # a run is used from other folders, too
            object.__setattr__(self, "data", _absolute(self.data))

    @property
    def mirrors(self) -> bool:
        """Whether the model is trained on mirrored images; only then can it classify them."""
        return self.flip or self.alternate_flip


def _absolute(path: str) -> str:
    """`path`, seen from the current folder, with ~ expanded if there is such a home folder."""
    try:
        found = Path(path).expanduser()
    except RuntimeError:
        found = Path(path)
    try:
        return str(found.absolute())
    except OSError as error:
        raise ConfigError(
            f"data: {path} is relative to the current folder, which cannot be found ({error.strerror}): "
            "give an absolute path"
        ) from error
