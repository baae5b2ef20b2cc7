"""Evaluation: unshaped returns in environments of their own."""

from marl.evaluation.report import Report, TeamReport

__all__ = ["Report", "TeamReport"]
