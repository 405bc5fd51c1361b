"""Options of the data: which images, how they are split, scaled and augmented."""

from __future__ import annotations

from dataclasses import dataclass

from gpunet.options import Options, option


@dataclass(frozen=True)
class DataConfig(Options):
    """Which images, how they are split, scaled and augmented."""

    data: str = option("fashion-mnist", "fashion-mnist, or the path of an IDX folder or NPZ file")
    validation_fraction: float = option(
        0.2, "share of the training images held out for validation", low=0, high=1, low_open=True, high_open=True
    )
    split_seed: int = option(0, "seed of the stratified train/validation split", low=0, high=2**32 - 1)
    train_images: int = option(
        0, "learn from so many of the images that are not held out, of each class its share; 0: from all", low=0
    )
    refit: bool = option(
        False,
        "learn from the validation images as well, once everything is chosen; needs --keep last, and the validation "
        "figures are then of images that were learnt from",
    )
    standardize: str = option(
        "none",
        "after scaling to [0, 1]: none; channel: subtract each channel's mean and divide by its deviation over the "
        "training images; pixel: the same for each pixel",
        choices=("none", "channel", "pixel"),
    )
    flip: bool = option(False, "augmentation: mirror each training image left-right with probability 1/2")
    alternate_flip: bool = option(
        False, "augmentation: mirror each training image in every second epoch, half of them in the first"
    )
    shift: int = option(0, "augmentation: move each training image by up to this many pixels each way", low=0)
    cutout: int = option(0, "augmentation: side of a square set to zero in each training image", low=0)

    @property
    def mirrors(self) -> bool:
        """Whether training shows mirrored images: only then does a model know what to make of one."""
        return self.flip or self.alternate_flip
