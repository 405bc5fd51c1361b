"""Losses of numbers rather than classes, element by element: squared error, Huber's, binary cross-entropy."""

from __future__ import annotations

from gpunet.backend import Array
from gpunet.checks import check_float, check_number, check_rank, check_shape
from gpunet.errors import ConfigError, ShapeError
from gpunet.ops._dispatch import implementation
from gpunet.ops._empty import no_rows, no_sum

REDUCTIONS = ("mean", "sum", "none")
SQUARED, HUBER, BINARY = range(3)
"""The kinds, as the kernels know them."""


def mse_loss(
    outputs: Array, targets: Array, *, sample_weight: Array | None = None, reduction: str = "mean"
) -> tuple[Array, Array]:
    """Squared error ``(outputs - targets)**2`` and its gradient, as PyTorch's ``mse_loss``.

    Args:
        outputs, targets: (N, K), float32 or float64, of one dtype.
        sample_weight: (N,), a factor of each row's loss; None: all 1.
        reduction: ``"mean"`` over all N * K elements; with weights, the sum divided by K times the sum of the weights.
            ``"sum"``; ``"none"``: the loss of each element.

    Returns:
        (loss, gradient): loss is a 0-d array, or (N, K) for ``"none"``; gradient (N, K) is that of the loss by
        `outputs`, or for ``"none"`` of the sum of all losses. Both have the dtype of `outputs`; sums are float64.

    Raises:
        ShapeError, DTypeError, DeviceError: the arrays do not match, or a mean of no elements.
        ConfigError: `reduction` is not one of the above.

    >>> loss, gradient = gn.ops.mse_loss(np.float32([[1, 5]]), np.float32([[1, 3]]))
    >>> loss, gradient  # (0 + 4) / 2
    (array(2., dtype=float32), array([[0., 2.]], dtype=float32))
    """
    return _loss(SQUARED, outputs, targets, 1.0, None, sample_weight, reduction)


def huber_loss(
    outputs: Array, targets: Array, *, delta: float = 1.0, sample_weight: Array | None = None, reduction: str = "mean"
) -> tuple[Array, Array]:
    """Huber's loss of the errors e: ``e**2 / 2`` up to `delta` and ``delta * (abs(e) - delta / 2)`` beyond.

    As PyTorch's ``huber_loss``. Arguments, results and errors as :func:`mse_loss`; delta is greater than 0.

    >>> loss, gradient = gn.ops.huber_loss(np.float32([[1, 5]]), np.float32([[1, 3]]))
    >>> loss, gradient  # (0 + 1.5) / 2
    (array(0.75, dtype=float32), array([[0. , 0.5]], dtype=float32))
    """
    delta = check_number("delta", delta, low=0, low_open=True)
    return _loss(HUBER, outputs, targets, delta, None, sample_weight, reduction)


def binary_cross_entropy_with_logits(
    outputs: Array,
    targets: Array,
    *,
    pos_weight: Array | None = None,
    sample_weight: Array | None = None,
    reduction: str = "mean",
) -> tuple[Array, Array]:
    """Binary cross-entropy of the sigmoid of the outputs, as PyTorch's function of this name.

    The loss of an element with target t and p = sigmoid(output) is ``-pos_weight * t * log(p) - (1 - t) * log(1 - p)``,
    computed without overflow.

    Arguments, results and errors as :func:`mse_loss`. targets: from 0 to 1. pos_weight: (K,), the weight of a 1 in each
    column; None: all 1.

    >>> loss, gradient = gn.ops.binary_cross_entropy_with_logits(np.float32([[0, 999]]), np.float32([[1, 1]]))
    >>> round(float(np.exp(2 * loss)), 5)  # the probabilities are 1/2 and 1
    2.0
    >>> gradient
    array([[-0.25,  0.  ]], dtype=float32)
    """
    return _loss(BINARY, outputs, targets, 1.0, pos_weight, sample_weight, reduction)


def _loss(
    kind: int,
    outputs: Array,
    targets: Array,
    delta: float,
    pos_weight: Array | None,
    sample_weight: Array | None,
    reduction: str,
) -> tuple[Array, Array]:
    check_float(outputs=outputs, targets=targets, pos_weight=pos_weight, sample_weight=sample_weight)
    check_rank("outputs", outputs, 2, "(N, K)")
    check_shape("targets", targets, outputs.shape)
    if pos_weight is not None:
        check_shape("pos_weight", pos_weight, outputs.shape[1:])
    if sample_weight is not None:
        check_shape("sample_weight", sample_weight, outputs.shape[:1])
    if reduction not in REDUCTIONS:
        raise ConfigError(f"reduction must be one of {', '.join(REDUCTIONS)}; got {reduction!r}")
    impl = implementation(__name__, outputs, targets, pos_weight, sample_weight)
    if not outputs.size:
        if reduction == "mean":
            raise ShapeError(
                f"the mean loss needs at least one element, got outputs {tuple(outputs.shape)}: leave the batch out, "
                'or use reduction="sum"'
            )
        empty = no_rows(outputs.shape, outputs)
        return empty if reduction == "none" else no_sum((), outputs), no_rows(outputs.shape, outputs)
    found: tuple[Array, Array] = impl.elementwise_loss(
        kind, outputs, targets, delta, pos_weight, sample_weight, reduction
    )
    return found
