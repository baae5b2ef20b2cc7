"""Where metrics go while a system trains, and how they come back: files, TensorBoard, other trackers, screen, plot."""

from marl.logs.apart import begin, looking_on
from marl.logs.csv import CSV
from marl.logs.logger import LoggedRun, Logger, Sink, logger_named
from marl.logs.metrics import MetricsFile, read_metrics
from marl.logs.mlflow import MLflow
from marl.logs.tensorboard import TensorBoard
from marl.logs.wandb import WandB

__all__ = [
    "CSV",
    "LoggedRun",
    "Logger",
    "MLflow",
    "MetricsFile",
    "Sink",
    "TensorBoard",
    "WandB",
    "begin",
    "logger_named",
    "looking_on",
    "read_metrics",
]
