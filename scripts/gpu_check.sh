#!/usr/bin/env bash
# All checks that need a GPU, in one command of at most ten minutes: doctor, compilation, tests, compute-sanitizer, timings,
# a training run. Needs python3 with NumPy, SciPy, Numba, CuPy, safetensors, rich, pytest and hypothesis, but neither network
# nor installation. See bench/README.md.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH=.${PYTHONPATH:+:$PYTHONPATH}
exec "${PYTHON:-python3}" -m bench.gpu_check "$@"
