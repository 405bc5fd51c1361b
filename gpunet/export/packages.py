"""The packages that export and import need beyond gpunet's own: imported when they are used."""

from __future__ import annotations

from typing import Any

from gpunet.errors import ConfigError
from gpunet.packages import pip_install


def onnx_packages() -> tuple[Any, Any]:
    """The modules ``onnx`` and ``onnx_ir``.

    Raises:
        ConfigError: one of them is not installed.
    """
    try:
        import onnx
        import onnx_ir
    except ImportError as error:
        raise ConfigError(f"ONNX files need onnx and onnx-ir: {pip_install('onnx')} ({error})") from error
    return onnx, onnx_ir


def onnxruntime_or_none() -> Any:
    """The module ``onnxruntime``; None if it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return None
    return onnxruntime


def pytorch() -> Any:
    """The module ``torch``.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise ConfigError(
            f"this needs PyTorch: pip install torch, or leave it out with tensors=False ({error})"
        ) from error
    return torch
