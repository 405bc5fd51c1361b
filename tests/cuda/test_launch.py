"""The guard of every launch: what does not fit a kernel's signature is refused, never converted."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from gpunet import backend, cuda
from gpunet.backend import CPU, register_array_type
from gpunet.cuda import CudaBackend, Kernel
from gpunet.errors import ConfigError, DeviceError, DTypeError, ShapeError


class Recorder:
    """A runtime that only notes what it is told."""

    hardware = "a recorder"

    def __init__(self) -> None:
        self.compiled: list[tuple[str, dict[str, str]]] = []
        self.launched: list[tuple[Any, ...]] = []

    def active(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def compile(self, source: str, defines: Any) -> str:
        self.compiled.append((source, dict(defines)))
        return source

    def launch(self, module: Any, kernel: Kernel, *what: Any) -> None:
        self.launched.append((module, kernel.name, *what))

    def capture(self, step: Callable[[], None]) -> Callable[[], None]:
        return step

    def synchronize(self) -> None:
        self.launched.append(("synchronize",))


class Recorded(np.ndarray):
    """An array on the recording device."""


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    recording = CudaBackend("recorder:0", np, recorder)
    register_array_type(Recorded, lambda array: recording)
    yield recorder
    del backend._array_types[Recorded]


def on_device(values: Any, dtype: Any = np.float32) -> np.ndarray:
    return np.asarray(values, dtype).copy().view(Recorded)


def test_arguments_arrive_as_declared(recorder: Recorder) -> None:
    x, y = on_device([1, 2, 3]), on_device([0, 0, 0])
    for _ in range(2):
        cuda.launch("activation", "leaky_relu", 1, (32, 2), x, y, 0.25, np.int64(3), real="float32", shared=16)
    assert recorder.compiled == [("activation", {"REAL": "float"})], "compiled once"
    module, kernel, grid, block, args, shared = recorder.launched[0]
    assert (module, kernel, grid, block, shared) == ("activation", "leaky_relu", (1, 1, 1), (32, 2, 1), 16)
    assert args[0] is x and args[1] is y
    assert type(args[2]) is np.float32 and args[2] == 0.25
    assert type(args[3]) is np.int32 and args[3] == 3
    cuda.launch("activation", "relu", 1, 32, on_device([1], "f8"), on_device([1], "f8"), True, real="float64")
    assert type(recorder.launched[-1][4][2]) is np.int32


def test_an_empty_grid_launches_nothing(recorder: Recorder) -> None:
    x = on_device([])
    cuda.launch("activation", "relu", 0, 256, x, x, 0, real="float32")
    assert recorder.launched == []


def relu(*args: Any, real: Any = "float32", kernel: str = "relu", **defines: str) -> None:
    cuda.launch("activation", kernel, 1, 32, *args, real=real, **defines)


def test_null_pointers(recorder: Recorder) -> None:
    relu(on_device([1]), None, 1)
    assert recorder.launched[0][4][1] is None


def test_bad_arrays(recorder: Recorder) -> None:
    x = on_device([[1, 2], [3, 4]])
    with pytest.raises(DTypeError, match="relu: x must be float32, got float64"):
        relu(x.astype("f8"), x, 4)
    with pytest.raises(ShapeError, match=r"relu: y must be C-contiguous, got shape \(2, 2\) with strides"):
        relu(x, x.T, 4)
    with pytest.raises(DTypeError, match="relu: y is a pointer: expected an array of float32 or None, got 3"):
        relu(x, 3, 4)
    locked = x.copy()
    locked.flags.writeable = False
    relu(locked, x, 4)
    with pytest.raises(ShapeError, match="relu: y is written to, but the array is read-only"):
        relu(x, locked, 4)
    huge = np.lib.stride_tricks.as_strided(x, (1, 2**31), (2**33, 4), subok=True, writeable=False)
    with pytest.raises(ShapeError, match="has 2147483648 elements, kernels can count 2147483647: use smaller batches"):
        relu(huge, x, 4)
    with pytest.raises(DeviceError, match="different devices"):
        relu(x, np.zeros((2, 2), np.float32), 4)
    assert len(recorder.launched) == 1


@pytest.mark.parametrize("n", [2**31, -(2**31) - 1, 1.0, np.float32(1), "1", None, [1]])
def test_bad_numbers(recorder: Recorder, n: Any) -> None:
    x = on_device([1])
    with pytest.raises(DTypeError, match=r"relu: n (must be an integer in|is a number: got)"):
        relu(x, x, n)


def test_structs(recorder: Recorder) -> None:
    x = on_device([[[[1]]]])
    parameter = cuda.kernels("conv2d", {"REAL": "float"})["direct_forward"].parameters[4]
    ones = dict.fromkeys(parameter.dtype.names or (), 1)

    def direct_forward(shape: Any) -> None:
        cuda.launch("conv2d", "direct_forward", 1, 32, x, x, None, x, shape, real="float32")

    direct_forward({**ones, "height": np.int64(7)})
    shape = recorder.launched[0][4][4]
    assert isinstance(shape, np.void) and shape.dtype.itemsize == 64
    assert shape["height"] == 7 and shape["width"] == 1
    message = r"direct_forward: s is a struct: expected a mapping of batch, height, .*, groups, got "
    for wrong in ({"batch": 1}, {**ones, "depth": 1}, 1, None, x, tuple(ones.values()), shape):
        with pytest.raises(DTypeError, match=message):
            direct_forward(wrong)
    with pytest.raises(DTypeError, match=r"direct_forward: s\.pad_top must be an integer in"):
        direct_forward({**ones, "pad_top": 2**31})


def test_bad_kernels(recorder: Recorder) -> None:
    x = on_device([1])
    with pytest.raises(ConfigError, match=r"there is no CUDA source nothing\.cu"):
        cuda.launch("nothing", "relu", 1, 1, x, real="float32")
    with pytest.raises(ConfigError, match=r"activation\.cu has no kernel 'relo'; it has relu, relu_backward"):
        relu(x, x, 1, kernel="relo")
    with pytest.raises(ConfigError, match=r"relu takes 3 arguments \(x, y, n\), got 2"):
        relu(x, x)
    with pytest.raises(ConfigError, match=r"does not declare the specialisation {'REAL': 'float', 'TILE': '9'}"):
        relu(x, x, 1, TILE="9")
    with pytest.raises(DTypeError, match="real must be float32 or float64, got float16"):
        relu(x, x, 1, real="float16")
    with pytest.raises(DeviceError, match="device 'cpu' does not run CUDA kernels"):
        relu(np.zeros(1, np.float32), np.zeros(1, np.float32), 1)


def test_memory_and_scalars(recorder: Recorder) -> None:
    x = on_device([[1, 2], [3, 4]])
    assert cuda.contiguous(x) is x
    copy = cuda.contiguous(x.T)
    assert copy.flags.c_contiguous and copy.tolist() == [[1, 3], [2, 4]]
    assert cuda.zeros((2, 3), "int64", x).tolist() == [[0] * 3] * 2
    assert cuda.empty_like(x.T).flags.c_contiguous
    assert cuda.scalar(0.5, np.float64) == (None, 0.5)
    lr = on_device([0.5], np.float64)
    assert cuda.scalar(lr, np.float64) == (lr, 0)
    assert cuda.scalar(lr, np.float32)[0].dtype == np.float32
    assert [cuda.ceil_div(n, 256) for n in (1, 256, 257, 0)] == [1, 1, 2, 0]


def test_the_backend_hands_on_to_its_runtime(recorder: Recorder) -> None:
    recording = cuda.cuda_backend_of(on_device([1]))
    assert recording.runtime is recorder and recording.hardware == "a recorder"
    assert recording.capture(relu) is relu
    recording.synchronize()
    assert recorder.launched == [("synchronize",)]
    assert recording.steps_between_reads > 1 == CPU.steps_between_reads


def test_precision_is_the_backends_own(recorder: Recorder) -> None:
    recording = cuda.cuda_backend_of(on_device([1]))
    assert recording.precision == "float32"
    with recording.use_precision("tf32"):
        assert recording.precision == "tf32" and CPU.precision == "float32"
    assert recording.precision == "float32"
    with pytest.raises(ConfigError, match="precision must be float32 or tf32, got 'bf16'"), CPU.use_precision("bf16"):
        pass


def test_what_is_compiled_is_told(recorder: Recorder) -> None:
    recording, seen = cuda.cuda_backend_of(on_device([1])), []
    with recording.watch_compilation(seen.append):
        relu(on_device([1]), on_device([1]), 1)
        relu(on_device([1]), on_device([1]), 1)
    relu(on_device([1], "f8"), on_device([1], "f8"), 1, real="float64")
    assert seen == ["activation REAL=float"]
