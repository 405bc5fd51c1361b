"""The CUDA op of a network's first block against the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpunet.ops.conv2d_batchnorm_pool import conv2d_batch_norm_max_pool, conv2d_batch_norm_max_pool_backward
from tests.cuda.conftest import Device
from tests.ops.test_conv2d_batchnorm_pool import MET, arrays, check, check_backward, check_parts


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_against_reference(device: Device, relu: bool, dtype: Any) -> None:
    case = {**MET, "options": {**MET["options"], "relu": relu}, "dtype": dtype}
    given, dy = arrays(case)
    ours = {name: device.array(array) for name, array in given.items()}
    y, saved = conv2d_batch_norm_max_pool(**ours, padding="same", **case["options"])
    parameters = ours["x"], ours["weight"], ours["gamma"]
    gradients = conv2d_batch_norm_max_pool_backward(device.array(dy), *parameters, saved, padding="same")
    host = saved._replace(
        mean=device.host(saved.mean), inv_std=device.host(saved.inv_std), argmax=device.host(saved.argmax)
    )
    check(case, (device.host(y), host), {name: device.host(ours[name]) for name in ("running_mean", "running_var")})
    check_backward(case, host, tuple(map(device.host, gradients)))


def test_parts_that_meet_are_the_whole_batch(device: Device) -> None:
    check_parts(MET, 3, device)
