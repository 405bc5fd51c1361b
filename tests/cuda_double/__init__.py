"""A CUDA runtime of host memory under the real CuPy, for tests. README.md explains it."""
