"""A step in shards: the gradients of equal parts of a batch, computed one by one and added in their order.

The number of shards belongs to the training, the number of ranks does not: a rank computes whole shards, and each sum
over shards has one order, so the weights have the same bits for any number of ranks.

The sums are shared out by columns. Each rank gets its columns of all shards (an all-to-all), adds them, and hands the
sums on (an all-gather): about two times the gradients go in and out of a rank when it has one shard, and as many more
times as it has further ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from gpunet import ops
from gpunet.backend import Array, Gather, backend_of
from gpunet.errors import ConfigError
from gpunet.nn.parameter import FlatParameters
from gpunet.ops.shards import FACTS
from gpunet.parallel.communicator import Communicator, Wait, no_wait
from gpunet.parallel.lockstep import Lockstep

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


Compute = Callable[[int, int, Gather | None], Result]
"""Takes the number of the first row in the batch and of rows, and where batch norm meets the other shards, if it does;
leaves the gradients in the parameters, then those of a loss by :func:`weighted`."""

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


def weighted(gradient: Array, result: Result, first_row: int, gather: Gather) -> Array:
    """`gradient`, of a shard's mean loss, times S of the shards and the shard's share in the weight of all.

    So all shards count the same, as they must where the gradient of one flows into the others.
    """
    if result.weight is None:
        return gradient
    backend, rows = backend_of(gradient), len(gradient)
    facts = backend.zeros(FACTS, gradient.dtype)
    ops.record_shard(facts, result.loss, result.correct, rows=rows, labels=result.labels, weight=result.weight)
    facts = gather(facts)
    shares, correct = backend.zeros(len(facts), "float64"), backend.zeros(1, "int64")
    ops.weigh_shards(facts, shares, correct)
    shard = first_row // rows
    factor = shares[shard : shard + 1] * len(shares)
    flat = ops.sum_shards(gradient.reshape(1, -1), factor)
    return flat.reshape(gradient.shape)


class ShardedStep:
    """Runs steps of `count` shards on this rank and the others of `communicator`.

    The running statistics of batch norm, which each shard moves from where they were before the step, become the mean
    of what the shards make of them. The loss is the mean over the batch: with class weights, shards count by their
    weights. With `synchronised`, batch norm takes its statistics from all shards, which then advance in lockstep.
    """

    def __init__(
        self,
        flat: FlatParameters,
        communicator: Communicator,
        *,
        count: int,
        batch_size: int,
        synchronised: bool = False,
    ) -> None:
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
        self._correct = backend.zeros(1, "int64")
        mine = self._facts[self._first : self._first + self._local]
        self._views = [flat.named(row[:length], facts[FACTS:]) for row, facts in zip(self._rows, mine, strict=True)]
        self._lockstep = Lockstep(communicator, backend, count) if synchronised else None

    def run(self, compute: Compute, update: Update) -> None:
        """One step. What a shard has to send is on its way while the next one computes."""
        started: list[Wait] = []
        self._compute(compute, lambda index: started.append(self._start(index)))
        self._exchange(started)
        self._add()
        self._share()
        update(*self._totals())

    def captured(self, compute: Compute, update: Update) -> Callable[[], None]:
        """:meth:`run` in its fastest repeatable form; on a GPU, graphs with the communication between them."""
        backend = self._flat.backend
        if self._lockstep is not None or backend.implementation == "cpu":  # messages within the step
            return lambda: self.run(compute, update)
        capture = backend.capture
        if self._communicator.size == 1:
            return capture(lambda: self.run(compute, update))
        first = capture(lambda: self._compute(compute))
        second, third = capture(self._add), capture(lambda: update(*self._totals()))

        def step() -> None:
            first()
            self._exchange([])
            second()
            self._share()
            third()

        return step

    def _compute(self, compute: Compute, finished: Callable[[int], None] = lambda index: None) -> None:
        def work(index: int, gather: Gather | None) -> None:
            shard = self._first + index
            found = compute(shard * self._size, self._size, gather)
            about: Any = {"rows": self._size, "labels": found.labels, "weight": found.weight}
            ops.record_shard(self._facts[shard], found.loss, found.correct, **about)

        with self._layers_write_elsewhere():
            for index in range(self._local):
                self._copy(self._flat.state, self._facts[self._first + index, FACTS:])
            if self._lockstep is not None:
                self._lockstep.run(work, self._point_at)
                return
            for index in range(self._local):
                self._point_at(index)
                work(index, None)
                finished(index)

    @contextmanager
    def _layers_write_elsewhere(self) -> Iterator[None]:
        """Inside the block, :meth:`_point_at` may be called."""
        flat = self._flat
        before = {name: parameter.grad for name, parameter in flat.parameters.items()}
        before |= {name: buffer.value for name, buffer in flat.buffers.items()}
        try:
            yield
        finally:
            self._point(before)

    def _point_at(self, index: int) -> None:
        """Make the layers write their gradients and running statistics to the rows of a shard of this rank."""
        self._point(self._views[index])

    def _point(self, views: dict[str, Array]) -> None:
        for name, parameter in self._flat.parameters.items():
            parameter.grad = views[name]
        for name, buffer in self._flat.buffers.items():
            buffer.value = views[name]

    def _copy(self, source: Array, target: Array) -> None:
        """By an op, as all that is captured."""
        if source.size:
            ops.sum_shards(source.reshape(1, -1), self._ones[:1], out=target)

    def _start(self, index: int) -> Wait:
        """Send the gradients of a shard of this rank, and receive the columns that it adds of others' shards."""
        ranks = self._communicator.size
        if ranks == 1:
            return no_wait
        rows = [rank * self._local + index for rank in range(ranks)]
        return self._communicator.all_to_all(self._rows[index], self._received, rows)

    def _exchange(self, started: list[Wait]) -> None:
        """The facts of all shards, and the gradients of those that have not `started`; wait for all."""
        if self._communicator.size == 1:
            return
        self._communicator.all_gather(self._facts)
        for wait in [*started, *map(self._start, range(len(started), self._local))]:
            wait()

    def _add(self) -> None:
        ops.weigh_shards(self._facts, self._weights, self._correct)
        shares = self._weights if self._lockstep is None else self._equal  # see `weighted`
        ops.sum_shards(self._received, shares, out=self._sums[self._mine])

    def _share(self) -> None:
        self._communicator.all_gather(self._sums)

    def _totals(self) -> tuple[Array, Array]:
        flat = self._flat
        if self._sums is not flat.gradients:
            self._copy(self._sums[: flat.gradients.size], flat.gradients)
        loss = ops.sum_shards(self._facts, self._weights)[:1]
        self._copy(ops.sum_shards(self._facts, self._equal)[FACTS:], flat.state)
        return loss, self._correct
