"""Optimisers over a model's flat parameters, and the registry of their names: :data:`OPTIMIZERS`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from gpunet.backend import Array, Scalar
from gpunet.checks import check_number
from gpunet.errors import ConfigError
from gpunet.ops.optimizer import adam_update, sgd_update
from gpunet.optim import _slots
from gpunet.optim._registry import look_up, select

if TYPE_CHECKING:
    from gpunet.nn.parameter import FlatParameters


class Optimizer:
    """An update rule with its hyperparameters; :meth:`bind` attaches the parameters and allocates its state.

    Weight decay applies only to parameters with ``decay=True``: to weights, not to biases or batch norm.

    >>> optimizer = gn.optim.Adam()
    >>> optimizer.bind(gn.nn.Linear(3, 2).initialize().flat)
    >>> {name: array.shape for name, array in optimizer.slots().items()}
    {'moment1': (8,), 'moment2': (8,)}
    """

    options: ClassVar[tuple[str, ...]] = ()
    """Names of the training options that the constructor takes."""
    slot_names: tuple[str, ...] = ()
    """Names of the optimiser's state arrays, each the size of the parameters."""

    def __init__(self, weight_decay: float) -> None:
        self.weight_decay = check_number("weight_decay", weight_decay, low=0)
        self._flat: FlatParameters | None = None
        self._slots: dict[str, Array] = {}

    def bind(self, flat: FlatParameters) -> None:
        """Attach the parameters, and allocate zeroed state (slots) on their device."""
        self._flat = flat
        self._slots = {name: flat.backend.zeros(flat.values.shape, flat.dtype) for name in self.slot_names}

    @property
    def flat(self) -> FlatParameters:
        """The parameters this optimiser is bound to."""
        if self._flat is None:
            raise ConfigError("the optimizer has no parameters yet: call bind(model.flat) first")
        if not self._flat.current:
            raise ConfigError(
                "the optimizer's parameters have moved to the arrays of another model that shares them and was "
                "initialised since: bind the flat of the model that is trained"
            )
        return self._flat

    def update(self, lr: Scalar, step: Scalar, scale: Scalar | None = None) -> None:
        """Update the parameters by one step, in a single pass.

        Args:
            lr: learning rate.
            step: number of this step, 1 for the first.
            scale: factor on the gradients, as returned by :func:`gpunet.ops.gradient_scale`; if it is not
                finite, nothing changes. None: 1.

        Each is a number or a one-element array on the parameters' device.

        Raises:
            ConfigError: the optimiser is not bound, or a number is out of range.
        """
        raise NotImplementedError

    def slots(self) -> dict[str, Array]:
        """The optimiser's state arrays by name, each the size of the parameters; not copies."""
        return dict(self._slots)

    def load_slots(self, tensors: Mapping[str, Array]) -> None:
        """Restore the state from saved :meth:`slots`; nothing changes unless all names and shapes match.

        Raises:
            CheckpointError: a name is missing or unexpected, or a shape differs.
            ConfigError: the optimiser is not bound.
        """
        _slots.load(f"the optimizer {type(self).__name__}", self._slots, tensors, self.flat.backend)


class SGD(Optimizer):
    """Stochastic gradient descent with (Nesterov) momentum, as torch.optim.SGD without dampening.

    With zero momentum, `nesterov` has no effect.

    Raises:
        ConfigError: `momentum` is not in [0, 1) or `weight_decay` is negative.

    >>> model = gn.nn.Linear(1, 1, bias=False, init=gn.nn.Constant(3.0)).initialize()
    >>> optimizer = gn.optim.SGD()
    >>> optimizer.bind(model.flat)
    >>> model.weight.grad[:] = 2
    >>> optimizer.update(lr=0.5, step=1)
    >>> model.weight.value  # 3 - 0.5 * 2
    array([[2.]], dtype=float32)
    """

    options = ("momentum", "nesterov", "weight_decay")

    def __init__(self, *, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0) -> None:
        super().__init__(weight_decay)
        self.momentum = check_number("momentum", momentum, low=0, high=1, high_open=True)
        self.nesterov = nesterov
        self.slot_names = ("velocity",) if momentum else ()

    def update(self, lr: Scalar, step: Scalar, scale: Scalar | None = None) -> None:
        flat = self.flat
        sgd_update(
            flat.values,
            flat.gradients,
            self._slots.get("velocity"),
            lr=lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            decay_size=flat.decay_size,
            scale=scale,
        )


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015) as torch.optim.Adam: weight decay is added to the gradient.

    Raises:
        ConfigError: `beta1` or `beta2` is not in [0, 1), or `eps` or `weight_decay` is negative.

    >>> model = gn.nn.Linear(1, 1, bias=False, init=gn.nn.Constant(3.0)).initialize()
    >>> optimizer = gn.optim.Adam()
    >>> optimizer.bind(model.flat)
    >>> model.weight.grad[:] = 2
    >>> optimizer.update(lr=0.5, step=1)
    >>> model.weight.value.round(5)  # in the first step, 3 - 0.5 * the sign of the gradient
    array([[2.5]], dtype=float32)
    """

    options = ("beta1", "beta2", "weight_decay")
    slot_names = ("moment1", "moment2")
    decoupled = False

    def __init__(
        self, *, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.0
    ) -> None:
        super().__init__(weight_decay)
        self.beta1 = check_number("beta1", beta1, low=0, high=1, high_open=True)
        self.beta2 = check_number("beta2", beta2, low=0, high=1, high_open=True)
        self.eps = check_number("eps", eps, low=0)

    def update(self, lr: Scalar, step: Scalar, scale: Scalar | None = None) -> None:
        flat = self.flat
        adam_update(
            flat.values,
            flat.gradients,
            **self._slots,
            lr=lr,
            step=step,
            beta1=self.beta1,
            beta2=self.beta2,
            eps=self.eps,
            weight_decay=self.weight_decay,
            decoupled=self.decoupled,
            decay_size=flat.decay_size,
            scale=scale,
        )


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019) as torch.optim.AdamW; arguments as :class:`Adam`.

    >>> model = gn.nn.Linear(1, 1, bias=False, init=gn.nn.Constant(3.0)).initialize()
    >>> optimizer = gn.optim.AdamW(weight_decay=0.5)
    >>> optimizer.bind(model.flat)
    >>> model.weight.grad[:] = 2
    >>> optimizer.update(lr=0.5, step=1)
    >>> model.weight.value.round(5)  # 3 * (1 - 0.5 * 0.5) - 0.5
    array([[1.75]], dtype=float32)
    """

    decoupled = True

    def __init__(
        self, *, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.01
    ) -> None:
        super().__init__(beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay)


OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW}
"""Classes by name. Options and messages take their choices from here."""


def create(name: str, **options: Any) -> Optimizer:
    """The optimiser called `name`, with those of the `options` that it takes; the others are ignored.

    Raises:
        ConfigError: there is no such optimiser, one of its options is missing, or one is out of range.

    >>> gn.optim.create("adam", beta1=0.8, beta2=0.999, weight_decay=0.0, momentum=0.9).beta1
    0.8
    """
    owner = look_up("optimizer", name, OPTIMIZERS)
    return owner(**select("optimizer", name, {option: option for option in owner.options}, options))
