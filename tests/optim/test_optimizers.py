"""The optimisers over a model's flat parameters, held to torch.optim."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gpunet import optim
from gpunet.errors import CheckpointError, ConfigError
from gpunet.optim import OPTIMIZERS
from tests.optim.models import flat_parameters
from tests.support import assert_close, torch_or_skip

RULES: dict[str, tuple[Callable[[], optim.Optimizer], Callable[[Any, Any], Any]]] = {
    "sgd": (
        lambda: optim.SGD(weight_decay=0.1),
        lambda torch, groups: torch.optim.SGD(groups, lr=0.05),
    ),
    "momentum": (
        lambda: optim.SGD(momentum=0.9, weight_decay=0.1),
        lambda torch, groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9),
    ),
    "nesterov": (
        lambda: optim.SGD(momentum=0.9, nesterov=True, weight_decay=0.1),
        lambda torch, groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9, nesterov=True),
    ),
    "adam": (
        lambda: optim.Adam(beta1=0.8, beta2=0.95, eps=1e-6, weight_decay=0.1),
        lambda torch, groups: torch.optim.Adam(groups, lr=0.05, betas=(0.8, 0.95), eps=1e-6),
    ),
    "adamw": (
        lambda: optim.AdamW(weight_decay=0.1),
        lambda torch, groups: torch.optim.AdamW(groups, lr=0.05),
    ),
}
EACH = pytest.mark.parametrize("name", RULES)


def take_steps(optimizer: optim.Optimizer, steps: range, *, as_arrays: bool = False) -> None:
    """Updates with gradients that depend on the number of the step alone."""
    flat = optimizer.flat
    for step in steps:
        flat.gradients[...] = np.random.default_rng(step).standard_normal(flat.gradients.shape)
        if as_arrays:
            optimizer.update(np.array([0.05]), np.array([step]), np.array(1.0, flat.dtype))
        else:
            optimizer.update(0.05, step)


@EACH
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("as_arrays", [False, True])
def test_against_pytorch(name: str, dtype: Any, as_arrays: bool) -> None:
    torch = torch_or_skip()
    ours, theirs = RULES[name]
    flat = flat_parameters(dtype=dtype)
    optimizer = ours()
    optimizer.bind(flat)
    tensors = {key: torch.tensor(part.value.copy(), requires_grad=True) for key, part in flat.parameters.items()}
    decayed = {"params": [tensors["weight"], tensors["kernel"]], "weight_decay": 0.1}
    rule = theirs(torch, [decayed, {"params": [tensors["bias"], tensors["gamma"]], "weight_decay": 0.0}])
    for step in range(1, 11):
        take_steps(optimizer, range(step, step + 1), as_arrays=as_arrays)
        for key, part in flat.parameters.items():
            tensors[key].grad = torch.tensor(part.grad.copy())
        rule.step()
    for key, part in flat.parameters.items():
        assert_close(part.value, tensors[key].detach().numpy(), terms=10, scale=4.0)


@EACH
def test_goes_on_from_its_slots_with_the_same_bits(name: str) -> None:
    flat, again = flat_parameters(dtype=np.float32), flat_parameters(dtype=np.float32)
    optimizer, resumed = RULES[name][0](), RULES[name][0]()
    optimizer.bind(flat)
    take_steps(optimizer, range(1, 4))
    slots = {key: slot.copy() for key, slot in optimizer.slots().items()}
    again.values[...] = flat.values
    take_steps(optimizer, range(4, 7))
    resumed.bind(again)
    resumed.load_slots(slots)
    take_steps(resumed, range(4, 7))
    np.testing.assert_array_equal(again.values, flat.values)
    for key, slot in slots.items():
        np.testing.assert_array_equal(resumed.slots()[key], optimizer.slots()[key])
        assert not np.array_equal(slot, optimizer.slots()[key])


@EACH
def test_scale(name: str) -> None:
    flat, other = flat_parameters(), flat_parameters()
    optimizer, plain = RULES[name][0](), RULES[name][0]()
    optimizer.bind(flat)
    plain.bind(other)
    flat.gradients[...], other.gradients[...] = 2.0, 0.5
    before = flat.values.copy()
    optimizer.update(0.05, 1, math.nan)
    np.testing.assert_array_equal(flat.values, before)
    assert not any(slot.any() for slot in optimizer.slots().values())
    optimizer.update(0.05, 1, 0.25)
    plain.update(0.05, 1)
    np.testing.assert_array_equal(flat.values, other.values)
    assert not np.array_equal(flat.values, before)


def test_slots() -> None:
    names = {"sgd": [], "momentum": ["velocity"], "adamw": ["moment1", "moment2"]}
    for name, expected in names.items():
        optimizer, flat = RULES[name][0](), flat_parameters(dtype=np.float32)
        optimizer.bind(flat)
        assert list(optimizer.slots()) == expected
        for slot in optimizer.slots().values():
            assert slot.shape == flat.values.shape and slot.dtype == np.float32 and not slot.any()


def test_slots_that_do_not_fit() -> None:
    optimizer = optim.Adam()
    optimizer.bind(flat_parameters())
    size = optimizer.flat.values.size
    take_steps(optimizer, range(1, 2))
    before = {name: slot.copy() for name, slot in optimizer.slots().items()}
    with pytest.raises(CheckpointError, match=r"fit the optimizer Adam: it has velocity, expected moment1, moment2; "):
        optimizer.load_slots({"velocity": np.zeros(size)})
    with pytest.raises(CheckpointError, match=r"it has nothing, expected moment1"):
        optimizer.load_slots({})
    with pytest.raises(CheckpointError, match=rf"moment2 has shape \(2,\), this model needs \({size},\)"):
        optimizer.load_slots({"moment1": np.zeros(size), "moment2": np.zeros(2)})
    for name, slot in optimizer.slots().items():
        np.testing.assert_array_equal(slot, before[name])


def test_create() -> None:
    options: dict[str, Any] = {"momentum": 0.8, "nesterov": True, "beta1": 0.7, "beta2": 0.9, "weight_decay": 0.3}
    created = {name: optim.create(name, **options) for name in OPTIMIZERS}
    assert [type(created[name]) for name in ("sgd", "adam", "adamw")] == [optim.SGD, optim.Adam, optim.AdamW]
    sgd, adam, adamw = (vars(created[name]) for name in ("sgd", "adam", "adamw"))
    assert (sgd["momentum"], sgd["nesterov"], sgd["weight_decay"]) == (0.8, True, 0.3)
    for adam_options in (adam, adamw):
        assert (adam_options["beta1"], adam_options["beta2"], adam_options["weight_decay"]) == (0.7, 0.9, 0.3)
    with pytest.raises(ConfigError, match=r"unknown optimizer 'lion': expected one of sgd, adam, adamw"):
        optim.create("lion", **options)


def test_defaults_are_pytorchs() -> None:
    torch = torch_or_skip()
    weight = [torch.zeros(1)]
    for ours, theirs in ((optim.Adam(), torch.optim.Adam(weight)), (optim.AdamW(), torch.optim.AdamW(weight))):
        defaults = theirs.defaults
        assert ((ours.beta1, ours.beta2), ours.eps, ours.weight_decay) == (
            defaults["betas"],
            defaults["eps"],
            defaults["weight_decay"],
        )
    sgd, defaults = optim.SGD(), torch.optim.SGD(weight).defaults
    assert (sgd.momentum, sgd.nesterov, sgd.weight_decay) == (
        defaults["momentum"],
        defaults["nesterov"],
        defaults["weight_decay"],
    )


def test_bad_input() -> None:
    with pytest.raises(ConfigError, match=r"momentum must be in \[0, 1\), got 1"):
        optim.SGD(momentum=1)
    with pytest.raises(ConfigError, match=r"weight_decay must be in \[0, inf\], got -1"):
        optim.SGD(weight_decay=-1)
    with pytest.raises(ConfigError, match=r"beta1 must be in \[0, 1\), got 1.5"):
        optim.Adam(beta1=1.5)
    with pytest.raises(ConfigError, match=r"beta2 must be in \[0, 1\), got -1"):
        optim.AdamW(beta2=-1)
    with pytest.raises(ConfigError, match=r"eps must be in \[0, inf\], got -1"):
        optim.AdamW(eps=-1)
    for call in (lambda: optim.SGD().update(0.1, 1), lambda: optim.Adam().load_slots({})):
        with pytest.raises(ConfigError, match=r"no parameters yet: call bind\(model.flat\) first"):
            call()
