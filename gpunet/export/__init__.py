"""Models for other libraries: ONNX files, both ways, with a certificate; PyTorch's state dicts, both ways."""

from gpunet.export.certificate import Certificate, Comparison
from gpunet.export.pytorch import from_torch_state_dict, to_torch, to_torch_state_dict
from gpunet.export.read import import_onnx
from gpunet.export.write import export_onnx

__all__ = [
    "Certificate",
    "Comparison",
    "export_onnx",
    "from_torch_state_dict",
    "import_onnx",
    "to_torch",
    "to_torch_state_dict",
]
