"""Where metrics go while a system trains, and how they come back: a file, TensorBoard, the screen, a plot."""

from marl.logs.logger import LoggedRun, Logger, Sink, logger_named, looking_on
from marl.logs.metrics import MetricsFile, read_metrics
from marl.logs.tensorboard import TensorBoard

__all__ = [
    "LoggedRun",
    "Logger",
    "MetricsFile",
    "Sink",
    "TensorBoard",
    "logger_named",
    "looking_on",
    "read_metrics",
]
