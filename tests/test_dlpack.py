"""DLPack: arrays of other libraries come in and go out in the same memory, or are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpunet as gn
from gpunet.errors import ConfigError, DataError, DeviceError, DTypeError, ShapeError
from tests.support import torch_or_skip


class Foreign:
    """An array of another library: its memory is that of a NumPy array."""

    def __init__(self, array: np.ndarray, device: tuple[int, int] = (1, 0)) -> None:
        self.array, self.device = array, device

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device


class OnlyCopies(Foreign):
    def __dlpack__(self, *, copy: bool | None = None, **options: Any) -> Any:
        if copy is False:
            raise BufferError("its values are compressed")
        return self.array.copy().__dlpack__(**options)


def address(array: Any) -> int:
    return int(array.__array_interface__["data"][0])


def test_memory_is_shared_on_the_way_in() -> None:
    own = np.arange(24, dtype=np.float32).reshape(4, 6)
    for view in (own, own[::2, 1:], own.T, own[:0]):
        found = gn.from_dlpack(Foreign(view))
        assert type(found) is np.ndarray and address(found) == address(view)
        assert (found.shape, found.strides, found.dtype) == (view.shape, view.strides, view.dtype)
    gn.from_dlpack(Foreign(own))[0, 0] = 7
    assert own[0, 0] == 7
    assert gn.from_dlpack(own) is own


def test_read_only_memory_stays_so() -> None:
    own = np.ones((3, 2), np.float32)
    own.flags.writeable = False
    found = gn.from_dlpack(Foreign(own))
    assert address(found) == address(own) and not found.flags.writeable
    assert gn.ops.relu(found).tolist() == own.tolist()
    with pytest.raises(ShapeError, match="writeable"):
        gn.ops.linear_backward(own, np.ones((3, 3), np.float32), own, out=(found, None))


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda x: Foreign(x, (8, 0)), DeviceError, "on a device of type Metal, expected CPU or CUDA: move it to the"),
        (lambda x: Foreign(x, (99, 0)), DeviceError, "on a device of type 99"),
        (lambda x: Foreign(x, (2, 41)), DeviceError, "cuda:41' (is not available|does not exist)"),
        (OnlyCopies, DTypeError, "OnlyCopies cannot be taken without a copy: its values are compressed"),
        (lambda x: x.tolist(), DTypeError, r"expected an array with __dlpack__, got builtins.list: convert it with"),
    ],
    ids=["Metal", "unknown", "CUDA", "copy", "list"],
)
def test_what_is_refused(make: Callable[[np.ndarray], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        gn.from_dlpack(make(np.ones((2, 2), np.float32)))


def test_ops_say_how_to_convert() -> None:
    with pytest.raises(DTypeError, match=r"got .*Foreign; convert it with gpunet\.from_dlpack\(\.\.\.\) first"):
        gn.backend_of(Foreign(np.ones(2)))


def test_parameters_go_out_without_a_copy() -> None:
    model = gn.models.MLP((3, 2), "relu")
    with pytest.raises(ConfigError, match=r"no arrays yet: call model\.initialize"):
        np.from_dlpack(dict(model.named_parameters())["linear1.weight"])
    model.initialize(seed=0, device="cpu")
    for name, parameter in model.named_parameters():
        shared = np.from_dlpack(parameter)
        assert address(shared) == address(parameter.value) == address(model.flat.parameters[name].value)
        shared[...] = 3
    assert (model.flat.values == 3).all()
    norm = gn.nn.BatchNorm(2).initialize(device="cpu")
    assert address(np.from_dlpack(norm.running_mean)) == address(norm.running_mean.value)


def test_pytorch_both_ways() -> None:
    torch = torch_or_skip()
    tensor = torch.arange(12.0).reshape(3, 4)
    for view in (tensor, tensor.T, tensor[:, ::2]):
        found = gn.from_dlpack(view)
        assert address(found) == view.data_ptr() and found.flags.writeable
        assert found.tolist() == view.tolist()
    model = gn.models.MLP((4, 3), "relu").initialize(seed=0, device="cpu")
    weight = torch.from_dlpack(dict(model.named_parameters())["linear1.weight"])
    assert weight.data_ptr() == address(model.flat.values)
    weight.fill_(0.5)
    y = model(gn.from_dlpack(tensor))
    assert torch.from_dlpack(y).data_ptr() == address(y) and y.tolist() == (tensor @ weight).tolist()
    for bad, message in (
        (torch.ones(2, requires_grad=True), "use tensor.detach"),
        (torch.ones(2, dtype=torch.bfloat16), "Unsupported dtype"),
        (torch.ones(2).to_sparse(), "torch.strided"),
        (torch.ones(2, device="meta"), "is on no device that DLPack knows: .*meta"),
    ):
        with pytest.raises((DTypeError, DeviceError), match=message):
            gn.from_dlpack(bad)


def test_data_and_predictions_take_tensors() -> None:
    torch = torch_or_skip()
    images = torch.arange(2 * 4 * 3, dtype=torch.uint8).reshape(2, 4, 3, 1)
    labels = torch.tensor([0, 1])
    loader = gn.data.Loader(images, labels, backend=gn.get_backend("cpu"))
    assert address(loader.images) == images.data_ptr() and loader.labels.tolist() == [0, 1]
    dataset = gn.data.Dataset(images, labels.to(torch.int32), ("a", "b"))
    assert address(dataset.images) == images.data_ptr() and dataset.labels.dtype == np.int32
    train, _ = gn.data.from_arrays(images, labels, images, labels)
    assert address(train.images) == images.data_ptr()
    with pytest.raises(DataError, match=r"images must be an array.*use tensor\.detach"):
        gn.data.Loader(torch.ones((2, 3), requires_grad=True), labels)


def test_arrays_on_another_device_are_not_moved_silently() -> None:
    cuda = Foreign(np.ones((2, 3), np.float32), (2, 41))
    for call in (lambda: gn.data.from_arrays(cuda, [0, 1]), lambda: gn.data.Loader(cuda, [0, 1])):
        with pytest.raises(DeviceError, match="cuda:41"):
            call()


def test_estimators_and_saved_models_take_tensors(tmp_path: Any) -> None:
    torch = torch_or_skip()
    from gpunet.sklearn import MLPClassifier

    x = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    fits = [
        MLPClassifier((4,), random_state=0, device="cpu").partial_fit(*pair)
        for pair in ((x, [0, 1] * 6), (torch.from_numpy(x), torch.tensor([0, 1] * 6)))
    ]
    np.testing.assert_array_equal(fits[0].predict_proba(x), fits[1].predict_proba(torch.from_numpy(x)))
    gn.save(gn.models.MLP((3, 2)).initialize(seed=0, device="cpu"), tmp_path / "a.safetensors")
    saved = gn.load(tmp_path / "a.safetensors", "cpu")
    np.testing.assert_array_equal(saved.predict_proba(x), saved.predict_proba(torch.from_numpy(x)))
