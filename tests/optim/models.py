"""A small set of flat parameters with weights, a bias and batch norm's running statistics."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpunet.backend import CPU
from gpunet.nn.parameter import Buffer, FlatParameters, Parameter


def flat_parameters(seed: int = 0, dtype: Any = np.float64) -> FlatParameters:
    """The bias comes first, as it would in no model, so that the flat order (decayed first) is not the order here."""
    rng = np.random.default_rng(seed)

    def parameter(*shape: int, decay: bool) -> Parameter:
        return Parameter(shape, init=None, decay=decay, value=rng.standard_normal(shape))  # type: ignore[arg-type]

    parameters = [
        ("bias", parameter(3, decay=False)),
        ("weight", parameter(4, 3, decay=True)),
        ("gamma", parameter(2, decay=False)),
        ("kernel", parameter(2, 2, 1, 3, decay=True)),
    ]
    buffers = [("running_mean", Buffer((2,), fill=0.0)), ("running_var", Buffer((2,), fill=1.0))]
    return FlatParameters(parameters, buffers, backend=CPU, dtype=np.dtype(dtype))
