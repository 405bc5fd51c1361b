"""A step in shards: the gradients of equal parts of a batch, computed one by one and added in their order.

The number of shards belongs to the training, the number of ranks does not: a rank computes whole shards, and each sum
over shards has one order, so the weights have the same bits for any number of ranks.

The sums are shared out by columns. Each rank gets its columns of all shards (an all-to-all), adds them, and hands the
sums on (an all-gather): about two times the gradients go in and out of a rank when it has one shard, and as many more
times as it has further ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from gpunet import ops
from gpunet.backend import Array
from gpunet.errors import ConfigError
from gpunet.nn.parameter import FlatParameters
from gpunet.ops.shards import FACTS
from gpunet.parallel.communicator import Communicator

DEFAULT_SHARDS = 8
"""With several ranks, unless the training says otherwise."""


class Result(NamedTuple):
    """What a shard has, besides the gradients of its mean loss."""

    loss: Array
    """0-d: its mean loss."""
    correct: Array
    """0-d, int64: its number of correct predictions."""
    labels: Array
    """(n,): of its rows."""
    weight: Array | None
    """(classes,): the weights by which its mean loss is made; None: all rows count the same."""


Compute = Callable[[int, int], Result]
"""Takes the number of the first row in the batch and of rows; leaves the gradients in the parameters."""

Update = Callable[[Array, Array], None]
"""Takes the mean loss and the number of correct predictions of the batch, whose gradients are in the flat array."""


def shard_count(shards: int, batch_size: int, ranks: int) -> int:
    """The number of shards of each batch: `shards`, or if that is 0, one for a single rank, else DEFAULT_SHARDS.

    Raises:
        ConfigError: the batch cannot be cut into so many, or the ranks cannot share them.
    """
    count = shards or (1 if ranks == 1 else DEFAULT_SHARDS)
    if count % ranks:
        raise ConfigError(
            f"{count} shards cannot be shared out evenly over {ranks} ranks: start as many ranks as divide {count}, or "
            f"train with another number of shards, such as --shards {ranks * max(1, round(count / ranks))}"
        )
    if batch_size % count:
        fitting = count * max(1, batch_size // count)
        raise ConfigError(
            f"a batch of {batch_size} images cannot be cut into {count} equal shards: use a batch size that {count} "
            f"divides, such as --batch-size {fitting}, or another number of shards"
        )
    return count


class ShardedStep:
    """Runs steps of `count` shards on this rank and the others of `communicator`.

    The running statistics of batch norm, which each shard moves from where they were before the step, become the mean
    of what the shards make of them. The loss is the mean over the batch: with class weights, shards count by their
    weights.
    """

    def __init__(self, flat: FlatParameters, communicator: Communicator, *, count: int, batch_size: int) -> None:
        self._flat, self._communicator = flat, communicator
        self._size = batch_size // count
        ranks = communicator.size
        self._local = count // ranks
        self._first = communicator.rank * self._local
        backend, dtype, length = flat.backend, flat.dtype, flat.gradients.size
        columns = -(-length // ranks)  # that this rank adds
        self._mine = slice(communicator.rank * columns, (communicator.rank + 1) * columns)
        self._rows = backend.zeros((self._local, ranks * columns), dtype)
        self._received = self._rows if ranks == 1 else backend.zeros((count, columns), dtype)
        padded = ranks * columns != length
        self._sums = backend.zeros(ranks * columns, dtype) if padded else flat.gradients
        self._facts = backend.zeros((count, FACTS + flat.state.size), dtype)  # the running statistics, too
        self._weights, self._equal, self._ones = (backend.zeros(count, "float64") for _ in range(3))
        backend.assign(self._equal, 1 / count)
        backend.assign(self._ones, 1)
        self._before = backend.zeros(flat.state.size, dtype)
        self._correct = backend.zeros(1, "int64")
        self._views = [self._gradients_in(row[:length]) for row in self._rows]

    def _gradients_in(self, row: Array) -> list[Array]:
        found = self._flat.named(row, self._flat.state)
        return [found[name] for name in self._flat.parameters]

    def run(self, compute: Compute, update: Update) -> None:
        """One step."""
        self._compute(compute)
        self._exchange()
        self._add()
        self._share()
        update(*self._totals())

    def captured(self, compute: Compute, update: Update) -> Callable[[], None]:
        """:meth:`run` in its fastest repeatable form; on a GPU, graphs with the communication between them."""
        capture = self._flat.backend.capture
        if self._communicator.size == 1:
            return capture(lambda: self.run(compute, update))
        first = capture(lambda: self._compute(compute))
        second, third = capture(self._add), capture(lambda: update(*self._totals()))

        def step() -> None:
            first()
            self._exchange()
            second()
            self._share()
            third()

        return step

    def _compute(self, compute: Compute) -> None:
        flat = self._flat
        before = [parameter.grad for parameter in flat.parameters.values()]
        self._copy(flat.state, self._before)
        try:
            for index in range(self._local):
                self._point_at(self._views[index])  # so that the layers write there
                shard = self._first + index
                found = compute(shard * self._size, self._size)
                facts = self._facts[shard]
                about: Any = {"rows": self._size, "labels": found.labels, "weight": found.weight}
                ops.record_shard(facts, found.loss, found.correct, **about)
                self._copy(flat.state, facts[FACTS:])
                self._copy(self._before, flat.state)
        finally:
            self._point_at(before)

    def _copy(self, source: Array, target: Array) -> None:
        """By an op, as all that is captured."""
        if source.size:
            ops.sum_shards(source.reshape(1, -1), self._ones[:1], out=target)

    def _point_at(self, gradients: list[Array]) -> None:
        for parameter, gradient in zip(self._flat.parameters.values(), gradients, strict=True):
            parameter.grad = gradient

    def _exchange(self) -> None:
        ranks = self._communicator.size
        if ranks == 1:
            return
        self._communicator.all_gather(self._facts)
        for index, row in enumerate(self._rows):
            self._communicator.all_to_all(row, self._received, [rank * self._local + index for rank in range(ranks)])

    def _add(self) -> None:
        ops.weigh_shards(self._facts, self._weights, self._correct)
        ops.sum_shards(self._received, self._weights, out=self._sums[self._mine])

    def _share(self) -> None:
        self._communicator.all_gather(self._sums)

    def _totals(self) -> tuple[Array, Array]:
        flat = self._flat
        if self._sums is not flat.gradients:
            self._copy(self._sums[: flat.gradients.size], flat.gradients)
        loss = ops.sum_shards(self._facts, self._weights)[:1]
        self._copy(ops.sum_shards(self._facts, self._equal)[FACTS:], flat.state)
        return loss, self._correct
