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
    standardize: str = option(
        "none",
        "after scaling to [0, 1]: none; channel: subtract each channel's mean and divide by its deviation over the "
        "training images; pixel: the same for each pixel",
        choices=("none", "channel", "pixel"),
    )
    flip: bool = option(False, "augmentation: mirror each training image left-right with probability 1/2")
    shift: int = option(0, "augmentation: move each training image by up to this many pixels each way", low=0)
    cutout: int = option(0, "augmentation: side of a square set to zero in each training image", low=0)
