"""The process that compiles the kernels and those that load them from the cache compute the same bits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import hashlib
import logging
import numpy as np
from gpunet import ops

logging.basicConfig(format="%(message)s")
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


def _started(cache: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache)}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


@pytest.mark.slow
def test_cold_warm_and_damaged_caches_give_the_same_bits(tmp_path: Path) -> None:
    cold = [_started(tmp_path), _started(tmp_path)]  # which write the same files at the same time
    results = [process.communicate() for process in cold]
    results.append(_started(tmp_path).communicate())
    files = list(tmp_path.rglob("*.nbc"))
    assert len(files) > 10, "the kernels are cached"
    for number, path in enumerate(files[::4]):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) * (number % 3) // 3])
    results.append(_started(tmp_path).communicate())
    outputs, errors = zip(*results, strict=True)
    assert len(outputs[0].split()) == 7, errors[0]
    assert outputs == outputs[:1] * 4
    assert errors[:3] == ("", "", "")
    assert str(tmp_path) in errors[3] and "damaged" in errors[3] and errors[3].count("\n") == 1
