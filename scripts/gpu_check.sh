#!/usr/bin/env bash
# Everything that only a GPU can show, in one command of at most ten minutes: doctor, compilation, tests, compute-sanitizer,
# timings, a training. Needs python3 with NumPy, SciPy, Numba, CuPy, safetensors, rich, pytest and hypothesis; no network, no installation. See bench/README.md.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH=.${PYTHONPATH:+:$PYTHONPATH}
exec "${PYTHON:-python3}" -m bench.gpu_check "$@"
