"""Arrays of other libraries, such as PyTorch, JAX and CuPy, without a copy: through DLPack.

The protocol is that of the Python array API standard, "Data interchange mechanisms": an array has ``__dlpack__`` and
``__dlpack_device__``. NumPy's and CuPy's arrays have both, so everything that gpunet returns goes out by the other
library's own ``from_dlpack``; a :class:`~gpunet.nn.Parameter` and a :class:`~gpunet.nn.Buffer` have them, too.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpunet.backend import CPU, Array, Backend, is_array
from gpunet.devices import get_backend
from gpunet.errors import DeviceError, DTypeError

_CPU, _CUDA, _CUDA_HOST, _CUDA_MANAGED = 1, 2, 3, 13
_OTHERS = {4: "OpenCL", 7: "Vulkan", 8: "Metal", 9: "VPI", 10: "ROCm", 14: "oneAPI", 15: "WebGPU", 16: "Hexagon"}
"""Numbers of ``DLDeviceType`` (dlpack.h, version 1.1)."""


def from_dlpack(array: Any) -> Array:
    """`array`, of any library, as a NumPy or CuPy array in the same memory: what changes in one changes in the other.

    Shape and strides stay as they are. The result may be read-only, if `array` is. Arrays of NumPy and CuPy are
    returned as they are.

    Raises:
        DTypeError: `array` does not give its memory by DLPack: it is no array, NumPy or CuPy lack its dtype, it is
            sparse, it is part of a gradient's computation, or it could only be copied.
        DeviceError: it is on a device on which gpunet does not compute, or whose CuPy is not installed.

    >>> x = np.zeros(3)  # or a tensor of PyTorch, an array of JAX
    >>> y = gn.from_dlpack(x)
    >>> y[0] = 1
    >>> x
    array([1., 0., 0.])
    """
    if is_array(array):
        return array  # type: ignore[no-any-return]
    name = f"{type(array).__module__}.{type(array).__qualname__}"
    if not hasattr(array, "__dlpack__") or not hasattr(array, "__dlpack_device__"):
        raise DTypeError(f"expected an array with __dlpack__, got {name}: convert it with numpy.asarray(...)")
    try:
        kind, index = array.__dlpack_device__()
    except (ValueError, TypeError, RuntimeError, BufferError) as error:
        raise DeviceError(f"the memory of this {name} is on no device that DLPack knows: {error}") from error
    backend = _backend(int(kind), int(index), name)
    try:
        with backend.active():
            found: Array = backend.xp.from_dlpack(array, copy=False)
    except (BufferError, TypeError, ValueError, RuntimeError) as error:
        raise DTypeError(f"this {name} cannot be taken without a copy: {' '.join(str(error).split())}") from error
    return found


def _backend(kind: int, index: int, name: str) -> Backend:
    if kind in (_CPU, _CUDA_HOST):
        return CPU
    if kind in (_CUDA, _CUDA_MANAGED):
        return get_backend(f"cuda:{index}")
    raise DeviceError(
        f"this {name} is on a device of type {_OTHERS.get(kind, kind)}, expected CPU or CUDA: move it to the CPU first"
    )


def own_array(values: Any) -> Any:
    """`values` through :func:`from_dlpack` if they are another library's array; anything else as it is."""
    return from_dlpack(values) if hasattr(values, "__dlpack_device__") and not is_array(values) else values


def on_host(values: Any) -> Any:
    """As :func:`own_array`, but DeviceError for an array that is not on the host: nothing is moved silently."""
    found = own_array(values)
    if is_array(found) and not isinstance(found, np.ndarray):
        raise DeviceError("the array is on a GPU, but is needed on the host: copy it there with .get() or .cpu()")
    return found
