"""The architectures: MLP, CNN and the hybrid of both; :data:`MODELS` names them."""

from gpunet.models.cnn import CNN, CNNConfig
from gpunet.models.description import Description
from gpunet.models.hybrid import Hybrid, HybridConfig
from gpunet.models.mlp import MLP, MLPConfig
from gpunet.models.registry import MODELS, ModelKind, create

__all__ = [
    "CNN",
    "MLP",
    "MODELS",
    "CNNConfig",
    "Description",
    "Hybrid",
    "HybridConfig",
    "MLPConfig",
    "ModelKind",
    "create",
]
