"""Softmax, and softmax cross-entropy with its gradient."""

from __future__ import annotations

from gpunet.backend import Array
from gpunet.checks import check_float, check_labels, check_number, check_rank, check_shape
from gpunet.errors import ConfigError, ShapeError
from gpunet.ops._dispatch import implementation
from gpunet.ops._empty import no_rows, no_sum

REDUCTIONS = ("mean", "sum", "none")


def _check_softmax(x: Array) -> None:
    check_float(x=x)
    if x.ndim < 1 or x.shape[-1] == 0:
        raise ShapeError(f"x must have at least one entry along its last axis, got shape {tuple(x.shape)}")


def softmax(x: Array) -> Array:
    """``exp(x) / sum(exp(x))`` along the last axis, without overflow for large entries.

    Args:
        x: (..., C), float32 or float64.

    Returns: a new array with the shape and dtype of `x`. A row that contains a NaN is all NaN.

    Raises:
        ShapeError: `x` is 0-d, or its last axis is empty.
        DTypeError: `x` is neither float32 nor float64.

    >>> gn.ops.softmax(np.float32([[0, 0], [1000, 0]]))
    array([[0.5, 0.5],
           [1. , 0. ]], dtype=float32)
    """
    _check_softmax(x)
    return implementation(__name__, x).softmax(x)


def log_softmax(x: Array) -> Array:
    """Logarithm of :func:`softmax`, accurate even where the softmax underflows; same arguments and errors.

    >>> gn.ops.log_softmax(np.float32([[1000, 0]]))
    array([[    0., -1000.]], dtype=float32)
    """
    _check_softmax(x)
    return implementation(__name__, x).log_softmax(x)


def _check_logits(logits: Array, labels: Array) -> None:
    check_float(logits=logits)
    check_rank("logits", logits, 2, "(N, C)")
    if logits.shape[1] == 0:
        raise ShapeError(f"logits must have at least one class, got shape {tuple(logits.shape)}")
    check_labels(labels, logits.shape[0])


def softmax_cross_entropy(
    logits: Array,
    labels: Array,
    *,
    label_smoothing: float = 0.0,
    weight: Array | None = None,
    sample_weight: Array | None = None,
    gamma: float = 0.0,
    reduction: str = "mean",
) -> tuple[Array, Array]:
    """Cross-entropy between the (smoothed) labels and the softmax of the logits, and its gradient.

    With C classes, label y, smoothing s and class weights w, the loss of a row is the sum over the classes c of
    ``-t[c] * log_softmax(logits)[c]`` with ``t[c] = (1 - s) * w[y] * (c == y) + s / C * w[c]`` (label smoothing:
    Szegedy et al. 2016, arXiv:1512.00567, section 7; weights as in PyTorch's cross_entropy). With `gamma`, it is the
    focal loss ``-w[y] * (1 - p)**gamma * log(p)`` of the label's probability p (Lin et al. 2017, arXiv:1708.02002).

    Args:
        logits: (N, C), float32 or float64.
        labels: (N,), integers in [0, C).
        label_smoothing: probability mass spread over all classes, in [0, 1].
        weight: class weights, (C,), dtype of `logits`; None: all 1.
        sample_weight: (N,), dtype of `logits`, a factor of each row's loss; None: all 1.
        gamma: exponent of the focal loss, at least 0; it goes without smoothing.
        reduction: ``"mean"`` divides the sum of the rows' losses by the sum of their labels' weights, each times the
            row's (N without weights), with or without smoothing; ``"sum"``; ``"none"``: one loss per row.

    Returns:
        (loss, dlogits): loss is a 0-d array, or (N,) for ``"none"``; dlogits (N, C) is the gradient of the loss, or for
        ``"none"`` of the sum of all rows' losses. Both have the dtype of `logits`; the loss is summed in float64.

    Raises:
        ShapeError, DTypeError, DeviceError: the arrays do not match, there are no classes, or a mean of no rows.
        ConfigError: `label_smoothing`, `gamma` or `reduction` is not one of the above.
        DataError: a label is not in [0, C). Checked on the CPU only: on a GPU it would need a synchronisation.

    >>> logits, labels = np.zeros((1, 4), np.float32), np.array([2])
    >>> loss, dlogits = gn.ops.softmax_cross_entropy(logits, labels)
    >>> round(float(np.exp(loss)), 5)  # each of four classes has probability 1/4
    4.0
    >>> dlogits
    array([[ 0.25,  0.25, -0.75,  0.25]], dtype=float32)
    """
    _check_logits(logits, labels)
    if weight is not None:
        check_float(logits=logits, weight=weight)
        check_shape("weight", weight, logits.shape[1:])
    if sample_weight is not None:
        check_float(logits=logits, sample_weight=sample_weight)
        check_shape("sample_weight", sample_weight, logits.shape[:1])
    if reduction not in REDUCTIONS:
        raise ConfigError(f"reduction must be one of {', '.join(REDUCTIONS)}; got {reduction!r}")
    smoothing = check_number("label_smoothing", label_smoothing, low=0, high=1)
    gamma = check_number("gamma", gamma, low=0)
    if gamma and smoothing:
        raise ConfigError(f"the focal loss goes without label_smoothing, got {smoothing} with gamma {gamma}")
    impl = implementation(__name__, logits, labels, weight, sample_weight)
    if not len(logits):
        if reduction == "mean":
            raise ShapeError(
                f"the mean loss needs at least one row, got logits {tuple(logits.shape)}: leave the batch out, "
                'or use reduction="sum"'
            )
        return no_rows((0,), logits) if reduction == "none" else no_sum((), logits), no_rows(logits.shape, logits)
    result: tuple[Array, Array] = impl.softmax_cross_entropy(
        logits, labels, smoothing, weight, sample_weight, gamma, reduction
    )
    return result


def count_correct(logits: Array, labels: Array) -> Array:
    """Number of rows whose largest logit is the label's; ties go to the first, and rows with a NaN never count.

    Args:
        logits: (N, C), float32 or float64.
        labels: (N,), integers in [0, C).

    Returns: a 0-d int64 array.

    Raises: as :func:`softmax_cross_entropy`.

    >>> gn.ops.count_correct(np.float32([[1, 2], [2, 1]]), np.array([1, 1]))
    array(1)
    """
    _check_logits(logits, labels)
    impl = implementation(__name__, logits, labels)
    return impl.count_correct(logits, labels) if len(logits) else no_sum((), logits, dtype="int64")
