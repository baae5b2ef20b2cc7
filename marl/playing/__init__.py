"""The one way to play policies: actors, the episode loop, evaluation and its report."""

from marl.playing.episodes import EpisodeRecord
from marl.playing.experiment import Experiment
from marl.playing.report import Report, TeamReport

__all__ = ["EpisodeRecord", "Experiment", "Report", "TeamReport"]
