"""``python -m gpunet``: the same as ``gpunet``."""

from __future__ import annotations

from gpunet.cli.main import entry_point

if __name__ == "__main__":
    entry_point()
