"""Images that stay on the disk, served in batches: read in the order in which training shows them, ahead by threads
where that pays.
"""

from __future__ import annotations

import math
import os
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from gpunet import ops
from gpunet.backend import Array, Backend
from gpunet.data.bounded import check_memory
from gpunet.data.loader import Loader
from gpunet.data.shards import PackedImages
from gpunet.errors import ConfigError

CHUNK_BYTES = 1 << 24
"""Images are read and moved to the device in chunks of at least this size, and of at least a batch."""

SLOTS = 2
"""Chunks on the device: a batch may begin in one and end in the next."""

READERS = 2
"""Threads that read, a chunk each, and chunks that are read ahead."""

DISK_SECONDS = 20e-6
"""Reading an image that takes longer waits for a disk. From the page cache it takes one or two microseconds."""


class _Window:
    """The part of a sequence of images that is on the device: SLOTS chunks in arrays that stay in place.

    Position p of the sequence is in row ``p % len(images)`` of them, so what refers to these arrays, such as a captured
    step, can find it by a fixed order.

    Chunks are read ahead by threads on a GPU, and on the CPU while reading waits for the disk. What is in the system's
    page cache is read there when it is needed, by all threads of the kernels: threads beside these would compete with
    them for the cores, and each kernel waits for the slowest of its threads.
    """

    def __init__(self, backend: Backend, images: PackedImages, labels: np.ndarray, rows: int) -> None:
        self.rows = rows
        self._backend, self._source, self._source_labels = backend, images, labels
        self.images = backend.zeros((SLOTS * rows, *images.shape[1:]), np.uint8)
        self.labels = backend.zeros(SLOTS * rows, np.int32)
        self._held: list[int | None] = [None] * SLOTS
        self._sequence = np.zeros(0, np.int64)
        self._buffers = self._new_buffers()
        self._ahead: deque[tuple[int, Future[float], np.ndarray]] = deque()
        self._in_place = backend.implementation == "cpu"
        self._waits = not self._in_place
        self._pool: ThreadPoolExecutor | None = None
        self._process = os.getpid()

    def begin(self, sequence: np.ndarray) -> None:
        """Serve another sequence: numbers of images, and of mirror images after all of these, int64 (n,)."""
        self._forget()
        self._sequence, self._held = sequence, [None] * SLOTS

    def fill(self, first: int, last: int) -> None:
        """Have the positions `first` to `last` - 1 on the device.

        Raises:
            DataError: they cannot be read.
        """
        for chunk in range(first // self.rows, (last - 1) // self.rows + 1):
            slot = chunk % SLOTS
            if self._held[slot] == chunk:
                continue
            numbers = self._numbers(chunk)
            own = slice(slot * self.rows, slot * self.rows + len(numbers))
            self._held[slot] = None
            seconds = self._read(chunk, self.images[own])
            self._backend.assign(self.labels[own], self._source_labels[numbers % len(self._source)])
            self._held[slot] = chunk
            if self._in_place:
                self._waits = seconds > DISK_SECONDS * len(numbers)
            if self._waits:
                self._read_ahead(chunk + 1)

    def _numbers(self, chunk: int) -> np.ndarray:
        return self._sequence[chunk * self.rows : (chunk + 1) * self.rows]

    def _read(self, chunk: int, out: Array) -> float:
        """Have the images of a chunk in `out`, on the device; the seconds that reading them took."""
        if not self._ahead or self._ahead[0][0] != chunk or self._process != os.getpid():
            self._forget()
            if self._in_place:
                return _read(self._source, self._numbers(chunk), out, threads=True)
            self._read_ahead(chunk)
        _, future, buffer = self._ahead.popleft()
        try:
            seconds = future.result()
            self._backend.assign(out, buffer[: len(out)])
            return seconds
        except BaseException:
            self._forget()
            raise
        finally:
            self._buffers.append(buffer)

    def _read_ahead(self, chunk: int) -> None:
        """Begin to read `chunk` and those after it, as far as there are buffers."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(READERS, "gpunet-read")
        chunk = max([chunk, *(ahead + 1 for ahead, *_ in self._ahead)])
        while self._buffers and chunk * self.rows < len(self._sequence):
            buffer = self._buffers.pop()
            self._ahead.append((chunk, self._pool.submit(_read, self._source, self._numbers(chunk), buffer), buffer))
            chunk += 1

    def _forget(self) -> None:
        """Drop what was read ahead."""
        if self._process != os.getpid():  # a forked process has none of the threads
            self._ahead.clear()
            self._buffers, self._pool, self._process = self._new_buffers(), None, os.getpid()
        while self._ahead:
            _, future, buffer = self._ahead.popleft()
            if not future.cancel():
                future.exception()  # waits: the buffer is written to until then
            self._buffers.append(buffer)

    def _new_buffers(self) -> list[np.ndarray]:
        return [np.empty((self.rows, *self._source.shape[1:]), np.uint8) for _ in range(READERS)]


def _read(images: PackedImages, numbers: np.ndarray, out: np.ndarray, *, threads: bool = False) -> float:
    """Read images, or mirror images where a number is beyond them, into the start of `out`; the seconds it took."""
    begin = time.perf_counter()
    images.read(numbers % len(images), out[: len(numbers)], threads=threads)
    seconds = time.perf_counter() - begin
    mirrored = np.flatnonzero(numbers >= len(images))
    if len(mirrored):
        out[mirrored] = out[mirrored, :, ::-1]
    return seconds


class StreamingLoader(Loader):
    """A :class:`~gpunet.data.loader.Loader` whose images stay on the disk: the same batches, to the last bit.

    Two chunks of images are on the device, and up to READERS chunks are read ahead by as many threads; the labels and
    the order are in memory. Mirror images are made when they are read, so ``alternate_flip`` takes no more memory.

    Before each batch whose `start` is an array, :meth:`prepare` must be called.

    Args:
        images: the images.
        labels, backend, options: as for :class:`~gpunet.data.loader.Loader`.
    """

    def __init__(
        self, images: PackedImages, labels: np.ndarray, *, backend: Backend | None = None, **options: Any
    ) -> None:
        super().__init__(images, labels, backend=backend, content=images.digest(), **options)

    def _store(self, images: Any) -> None:
        if self.targets.ndim != 1 or self.sample_weight is not None:
            raise ConfigError("images on the disk have class indices, not numbers or weights: load them into memory")
        self._packed: PackedImages = images
        self._labels = self.backend.asarray(self.targets)
        self._rows: tuple[int, int, int] = (0, 1, 1)
        self._sequences = dict.fromkeys((False, True), np.arange(self.size))
        self._windows: dict[bool, list[tuple[_Window, Array]]] = {False: [], True: []}

    def _store_mirrored(self, other: Loader) -> None:
        assert isinstance(other, StreamingLoader)
        images = other._packed.mirrored()
        self._content = images.digest()
        self._store(images)

    @property
    def images(self) -> Array:
        """The images, all of them, read to the device.

        Raises:
            DataError: they do not fit into memory.
        """
        check_memory(self._packed.size, f"a data set of {self.size} images")
        return self.backend.asarray(self._packed[:])

    def serve(self, first: int, last: int, of: int) -> None:
        """Read only rows `first` to `last` - 1 of each training batch of `of` images: the part of one of several ranks.

        The other rows of a batch are then not there. The order, and so each row, is that of all images.
        """
        if not 0 <= first < last <= of:
            raise ConfigError(f"expected rows 0 <= first < last <= of, got first {first}, last {last} and of {of}")
        self._rows = first, last, of
        self._windows = {**self._windows, True: []}

    def shuffle(self, seed: int, epoch: int) -> None:
        """Shuffle the training images for `epoch`: the order depends only on `seed` and `epoch`."""
        self._sequences[True] = self._shuffled(seed, epoch)
        for window, _ in self._windows[True]:
            window.begin(self._own(self._sequences[True]))

    def _own(self, sequence: np.ndarray) -> np.ndarray:
        """The entries of a sequence of training that are served here."""
        first, last, of = self._rows
        return sequence if last - first == of else sequence[_between(np.arange(len(sequence)) % of, first, last)]

    def prepare(self, start: int, size: int, *, training: bool = False) -> None:
        """Have the images of a batch on the device; to be called before each batch, also before each replay.

        Raises:
            DataError: they cannot be read.
        """
        window, _ = self._window(size, training)
        first, last, of = self._rows if training else (0, 1, 1)

        def served_before(position: int) -> int:
            return position // of * (last - first) + min(max(position % of - first, 0), last - first)

        window.fill(served_before(start), served_before(start + size))

    def training_batch(
        self, start: int | Array, size: int, *, seed: int, step: int | Array, first_row: int = 0
    ) -> tuple[Array, Array]:
        """As :meth:`Loader.training_batch`; an int for `start` needs no :meth:`prepare`."""
        return self._batch(start, size, True, seed=seed, step=step, first_row=first_row, **self._augmentation)

    def batch(self, start: int | Array, size: int) -> tuple[Array, Array]:
        """As :meth:`Loader.batch`; an int for `start` needs no :meth:`prepare`."""
        return self._batch(start, size, False)

    def _batch(self, start: int | Array, size: int, training: bool, **options: Any) -> tuple[Array, Array]:
        if isinstance(start, int):
            self.prepare(start + options.get("first_row", 0), size, training=training)
        window, order = self._window(size, training)
        return ops.gather_batch(window.images, window.labels, order, start=start, size=size, **options, **self._scaling)

    def _window(self, size: int, training: bool) -> tuple[_Window, Array]:
        """The window for batches of `size`, always the same one, and the order: the place of each position in it."""
        for window, order in self._windows[training]:
            if window.rows >= size:
                return window, order
        image = math.prod(self.input_shape)
        window = _Window(self.backend, self._packed, self.targets, max(size, CHUNK_BYTES // image, 1))
        sequence = self._sequences[training]
        if training:
            order = np.full(self.size, -1)
            own = self._own(np.arange(self.size))
            sequence = self._own(sequence)
        else:
            order, own = np.empty(self.size, np.int64), np.arange(self.size)
        order[own] = np.arange(len(own)) % len(window.images)
        window.begin(sequence)
        self._windows[training].append((window, self.backend.asarray(order)))
        return self._windows[training][-1]


def _between(values: np.ndarray, low: int, high: int) -> np.ndarray:
    return (values >= low) & (values < high)
