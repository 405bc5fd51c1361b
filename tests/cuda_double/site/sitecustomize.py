"""Imported by every Python that is started with this folder on its path: its CuPy runs on the double."""

from tests.cuda_double.start import start

start()
