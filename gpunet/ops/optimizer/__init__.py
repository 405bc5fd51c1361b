"""Optimiser updates of a model's flat parameter buffer, each in place, in one pass; rules and defaults are PyTorch's.

Unlike most ops, these write to their arguments: `params` and the optimiser's state. `lr`, `step` and `scale` are
numbers, or one-element arrays on the device of `params` (lr and scale float32 or float64, step an integer type) that
only the kernel reads, so that their values can change between replays of a captured step. Weight decay applies to
``params[:decay_size]``; None: to all.
"""

from __future__ import annotations

from gpunet.backend import Array, Scalar
from gpunet.checks import check_float, check_number
from gpunet.errors import ConfigError, ShapeError
from gpunet.ops._dispatch import implementation
from gpunet.ops.optimizer._arguments import check_buffers, check_decay, check_scalar

__all__ = ["Scalar", "adam_update", "ema_update", "gradient_scale", "sgd_update"]


def gradient_scale(grads: Array, loss: Array, *, max_norm: float = 0.0) -> tuple[Array, Array]:
    """The clipping factor for the gradients, and their L2 norm.

    The scale is 1 or, if `max_norm` is above 0, ``min(1, max_norm / (norm + 1e-6))`` (Pascanu, Mikolov & Bengio 2013,
    section 3.2; the 1e-6 is that of PyTorch's ``clip_grad_norm_``). If `loss` or the norm is not finite, it is NaN,
    which turns the updates below into no-ops.

    Args:
        grads: flat, float32 or float64.
        loss: one-element array, float32 or float64.
        max_norm: maximum norm; 0: no clipping, in which case `grads` is not read and the norm is returned as 0.

    Returns:
        (scale, norm): 0-d arrays of the dtype of `grads`. The squares are summed in float64 in a fixed order.

    Raises:
        ShapeError, DTypeError, DeviceError: the arrays do not match.
        ConfigError: `max_norm` is negative.

    >>> scale, norm = gn.ops.gradient_scale(np.float32([3, 4]), np.float32([0.1]), max_norm=2.5)
    >>> scale.round(5), norm
    (np.float32(0.5), array(5., dtype=float32))
    """
    check_buffers(grads=grads)
    check_float(loss=loss)
    if loss.size != 1:
        raise ShapeError(f"loss must have one element, got shape {tuple(loss.shape)}; reduce it first")
    max_norm = check_number("max_norm", max_norm, low=0)
    result: tuple[Array, Array] = implementation(__name__, grads, loss).gradient_scale(grads, loss, max_norm)
    return result


def sgd_update(
    params: Array,
    grads: Array,
    velocity: Array | None,
    *,
    lr: Scalar,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    decay_size: int | None = None,
    scale: Scalar | None = None,
) -> None:
    """One step of stochastic gradient descent (torch.optim.SGD; both kinds of momentum: Sutskever et al. 2013).

    ``g = scale * grads + weight_decay * params``; ``velocity = momentum * velocity + g``; ``params -= lr * d``, where d
    is the velocity, or ``g + momentum * velocity`` with `nesterov`. The velocity is initially zero; without momentum it
    is neither read nor written and may be None. If `scale` is not finite, nothing changes.

    Raises:
        ShapeError, DTypeError, DeviceError: the buffers do not match, or are not writeable.
        ConfigError: an option is out of range, or momentum is given without a velocity.

    >>> params, velocity = np.float32([1, 1]), np.zeros(2, np.float32)
    >>> gn.ops.sgd_update(params, np.float32([2, 4]), velocity, lr=0.25, momentum=0.5)
    >>> params, velocity
    (array([0.5, 0. ], dtype=float32), array([2., 4.], dtype=float32))
    """
    check_buffers("params", "velocity", params=params, grads=grads, velocity=velocity)
    momentum = check_number("momentum", momentum, low=0, high=1)
    if momentum and velocity is None:
        raise ConfigError(f"momentum {momentum} needs a velocity: pass zeros like params before the first step")
    weight_decay, decay_size = check_decay(weight_decay, decay_size, params.size)
    scalars = check_scalar("lr", lr, low=0), check_scalar("scale", scale)
    implementation(__name__, params, grads, velocity, *scalars).sgd_update(
        params, grads, velocity, lr, momentum, bool(nesterov), weight_decay, decay_size, scale
    )


def adam_update(
    params: Array,
    grads: Array,
    moment1: Array,
    moment2: Array,
    *,
    lr: Scalar,
    step: Scalar,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    decay_size: int | None = None,
    scale: Scalar | None = None,
) -> None:
    """One step of Adam (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1; torch.optim.Adam).

    Weight decay is added to the gradient or, with `decoupled`, first shrinks the weights by ``1 - lr * weight_decay``
    (AdamW: Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2). Both moments are initially zero; `step` is 1 for
    the first update. If `scale` is not finite, nothing changes.

    Raises:
        ShapeError, DTypeError, DeviceError: the buffers do not match, or are not writeable.
        ConfigError: an option is out of range.

    >>> params, moment1, moment2 = np.zeros((3, 2), np.float32)
    >>> gn.ops.adam_update(params, np.float32([2, -400]), moment1, moment2, lr=0.5, step=1)
    >>> params.round(5)  # of the first step, only the sign of the gradient counts
    array([-0.5,  0.5], dtype=float32)
    """
    check_buffers("params", "moment1", "moment2", params=params, grads=grads, moment1=moment1, moment2=moment2)
    beta1 = check_number("beta1", beta1, low=0, high=1, high_open=True)
    beta2 = check_number("beta2", beta2, low=0, high=1, high_open=True)
    eps = check_number("eps", eps, low=0)
    weight_decay, decay_size = check_decay(weight_decay, decay_size, params.size)
    scalars = (
        check_scalar("lr", lr, low=0),
        check_scalar("step", step, integer=True, low=1),
        check_scalar("scale", scale),
    )
    implementation(__name__, params, grads, moment1, moment2, *scalars).adam_update(
        params, grads, moment1, moment2, lr, step, beta1, beta2, eps, weight_decay, bool(decoupled), decay_size, scale
    )


def ema_update(average: Array, values: Array, *, decay: float, step: Scalar | None = None) -> None:
    """Update a moving average: ``average = decay * average + (1 - decay) * values``.

    With a `step` (1 for the first update) the decay is ``min(decay, (1 + step) / (10 + step))``, so that the initial
    values are soon forgotten, as with num_updates of TensorFlow's ExponentialMovingAverage.

    Raises:
        ShapeError, DTypeError, DeviceError: the buffers do not match, or are not writeable.
        ConfigError: `decay` is not in [0, 1].

    >>> average = np.float32([0, 4])
    >>> gn.ops.ema_update(average, np.float32([4, 0]), decay=0.75)
    >>> average
    array([1., 3.], dtype=float32)
    """
    check_buffers("average", average=average, values=values)
    decay = check_number("decay", decay, low=0, high=1)
    scalar = check_scalar("step", step, integer=True, low=0)
    implementation(__name__, average, values, scalar).ema_update(average, values, decay, step)
