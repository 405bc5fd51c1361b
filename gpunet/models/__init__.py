"""The three architectures: MLP, CNN and the hybrid of both."""

from gpunet.models.cnn import CNN
from gpunet.models.config import CNNConfig, HybridConfig, MLPConfig
from gpunet.models.create import create, create_cnn, create_hybrid
from gpunet.models.hybrid import Hybrid
from gpunet.models.mlp import MLP

__all__ = ["CNN", "MLP", "CNNConfig", "Hybrid", "HybridConfig", "MLPConfig", "create", "create_cnn", "create_hybrid"]
