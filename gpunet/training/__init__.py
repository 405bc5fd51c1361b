"""Training: the trainer, its callbacks, checkpoints, metrics, and the hybrid's pipeline."""

from gpunet.training.callbacks import Callback, EarlyStopping
from gpunet.training.checkpoint import load_checkpoint, save_checkpoint
from gpunet.training.config import HybridTrainingConfig, TrainingConfig
from gpunet.training.evaluation import Evaluation, evaluate
from gpunet.training.history import History
from gpunet.training.hybrid import HybridFit, fit_hybrid
from gpunet.training.metrics import METRICS, Metric
from gpunet.training.progress import Progress
from gpunet.training.tensorboard import TensorBoard
from gpunet.training.tracking import MLflow, Tracker, Wandb
from gpunet.training.trainer import Trainer

__all__ = [
    "METRICS",
    "Callback",
    "EarlyStopping",
    "Evaluation",
    "History",
    "HybridFit",
    "HybridTrainingConfig",
    "MLflow",
    "Metric",
    "Progress",
    "TensorBoard",
    "Tracker",
    "Trainer",
    "TrainingConfig",
    "Wandb",
    "evaluate",
    "fit_hybrid",
    "load_checkpoint",
    "save_checkpoint",
]
