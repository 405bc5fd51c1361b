"""DLPack with CuPy's arrays: the same memory on the GPU on the way in and out; the host's is not moved silently."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpunet as gn
from gpunet.errors import DeviceError


class Foreign:
    """An array of another library, whose memory is that of a CuPy array."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


@pytest.mark.gpu
def test_memory_of_a_gpu_is_shared() -> None:
    import cupy

    backend = gn.get_backend("cuda")
    own = backend.asarray(np.arange(12, dtype=np.float32).reshape(3, 4))
    for view in (own, own[:, 1::2], own.T):
        found = gn.from_dlpack(Foreign(view))
        assert gn.backend_of(found) is backend
        assert (found.data.ptr, found.shape, found.strides) == (view.data.ptr, view.shape, view.strides)
    loader = gn.data.Loader(Foreign(own), backend.asarray(np.arange(3)), backend=backend)
    assert loader.images.data.ptr == own.data.ptr and backend.to_numpy(loader.labels).tolist() == [0, 1, 2]
    model = gn.models.MLP((4, 3), "relu").initialize(seed=0, device="cuda")
    assert cupy.from_dlpack(dict(model.named_parameters())["linear1.weight"]).data.ptr == model.flat.values.data.ptr
    with pytest.raises(DeviceError, match="the array is on a GPU, but is needed on the host: copy it there with"):
        gn.data.from_arrays(Foreign(own), [0, 1, 0])
