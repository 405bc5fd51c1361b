"""Packing: any data set of images, read piece by piece, to the shards that :mod:`gpunet.data.packed` reads."""

from gpunet.data.pack.write import pack

__all__ = ["pack"]
