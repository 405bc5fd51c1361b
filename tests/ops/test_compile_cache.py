"""The process that compiles the kernels and those that load them from the cache compute the same bits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import hashlib
import numpy as np
from gpunet import ops

rng = np.random.default_rng(0)
p, g, m, v, x, dy = (rng.standard_normal(1000).astype(np.float32) for _ in range(6))
v = abs(v)
ops.adam_update(p, g, m, v, lr=0.003, step=2, weight_decay=0.05, decoupled=True, decay_size=500)
ops.sgd_update(p, g, m, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4, decay_size=500)
ops.ema_update(m, g, decay=0.99)
y = ops.gelu(x)
dx = ops.gelu_backward(dy, x)
loss, dlogits = ops.softmax_cross_entropy(x.reshape(100, 10), np.arange(100) % 10, label_smoothing=0.1)
arrays = [p, m, v, y, dx, np.asarray(loss), dlogits]
assert all(np.isfinite(array).all() for array in arrays)
print(*(hashlib.sha256(array.tobytes()).hexdigest() for array in arrays))
"""


@pytest.mark.slow
def test_a_cold_start_gives_the_bits_of_a_warm_one(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    outputs = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, env=environment
        )
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
        assert list(tmp_path.rglob("*.nbi")), "the kernels are cached"
    assert len(outputs[0].split()) == 7 and outputs[0] == outputs[1]
