"""Playing policies: actors, the episode loop, evaluation and its report."""

from marl.playing.episodes import EpisodeRecord
from marl.playing.experiment import Experiment
from marl.playing.report import Report, TeamReport
from marl.playing.single import Agent
from marl.playing.team import Strategy

__all__ = ["Agent", "EpisodeRecord", "Experiment", "Report", "Strategy", "TeamReport"]
