"""The CUDA convolution block in inference against the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpunet.ops.conv2d_inference import conv2d_inference
from tests.cuda.conftest import Device
from tests.ops.test_conv2d_inference import arguments, check


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("max_pool", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_against_reference(device: Device, norm: bool, max_pool: bool, dtype: Any) -> None:
    following = {"bias": not norm, "norm": norm, "relu": True, "max_pool": max_pool}
    case = {"x": (2, 7, 5, 3), "weight": (3, 3, 3, 6), "options": {"padding": "same"}, "dtype": dtype, "seed": 1}
    case["following"] = following
    arrays, options = arguments(case, dtype)
    norm_arrays, vectors = arrays.pop("norm"), {name: arrays[name] for name in ("x", "weight", "bias")}
    ours = {name: None if array is None else device.array(array) for name, array in vectors.items()}
    ours["norm"] = None if norm_arrays is None else [device.array(part) for part in norm_arrays]
    check(case, device.host(conv2d_inference(**ours, **options)))
