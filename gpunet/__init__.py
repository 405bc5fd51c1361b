"""gpunet: small neural networks trained from scratch on NumPy and CuPy arrays, with hand-written kernels.

    import gpunet as gn

    train, test = gn.data.load("fashion-mnist")
    model = gn.models.MLP((784, 128, 64, 10), activation="gelu").initialize(seed=0)
    gn.save(model, "model.safetensors")
    gn.load("model.safetensors").predict(test.images)

The subpackages: :mod:`gpunet.ops` (maths on raw arrays), :mod:`gpunet.nn` (layers), :mod:`gpunet.models`,
:mod:`gpunet.optim`, :mod:`gpunet.data`, :mod:`gpunet.training`, :mod:`gpunet.parallel` (training with several
processes), :mod:`gpunet.experiments` (whole runs).
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpunet import data, experiments, models, nn, ops, optim, parallel, report, training
    from gpunet.devices import backend_of, get_backend, use_device
    from gpunet.dlpack import from_dlpack
    from gpunet.experiments.quick import train
    from gpunet.experiments.saved import load_model as load
    from gpunet.experiments.saved import save_model as save
    from gpunet.export import export_onnx, from_torch_state_dict, import_onnx, to_torch, to_torch_state_dict

__version__ = "0.1.0"

logging.getLogger("gpunet").addHandler(logging.NullHandler())

_ELSEWHERE = {
    "backend_of": ("devices", "backend_of"),
    "export_onnx": ("export", "export_onnx"),
    "from_dlpack": ("dlpack", "from_dlpack"),
    "from_torch_state_dict": ("export", "from_torch_state_dict"),
    "get_backend": ("devices", "get_backend"),
    "import_onnx": ("export", "import_onnx"),
    "load": ("experiments.saved", "load_model"),
    "save": ("experiments.saved", "save_model"),
    "to_torch": ("export", "to_torch"),
    "to_torch_state_dict": ("export", "to_torch_state_dict"),
    "train": ("experiments.quick", "train"),
    "use_device": ("devices", "use_device"),
}
_PARTS = ("data", "experiments", "models", "nn", "ops", "optim", "parallel", "report", "training")

__all__ = [
    "__version__",
    "backend_of",
    "data",
    "experiments",
    "export_onnx",
    "from_dlpack",
    "from_torch_state_dict",
    "get_backend",
    "import_onnx",
    "load",
    "models",
    "nn",
    "ops",
    "optim",
    "parallel",
    "report",
    "save",
    "to_torch",
    "to_torch_state_dict",
    "train",
    "training",
    "use_device",
]


def __dir__() -> list[str]:
    """For completion: the names that are imported on first use, too."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """Import a subpackage on first use, to keep ``import gpunet`` fast."""
    if name in _PARTS:
        return import_module(f"gpunet.{name}")
    if name in _ELSEWHERE:
        module, own = _ELSEWHERE[name]
        return getattr(import_module(f"gpunet.{module}"), own)
    raise AttributeError(f"module 'gpunet' has no attribute {name!r}")
