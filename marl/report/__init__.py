"""What people look at: recorded episodes, a page in one file, and the same page beside a training that runs."""

from marl.report.recorder import record
from marl.report.recording import RecordedEpisode, Recording

__all__ = ["RecordedEpisode", "Recording", "record"]
