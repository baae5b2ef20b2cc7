"""Deploying trained agents: bundles that run without torch, what they cost, and proof that they act as trained."""

from marl.deploy.distill import Lessons, distill
from marl.deploy.export import export
from marl.deploy.prune import prune
from marl.deploy.trade import Trade, trade
from marl.deploy.verify import Certificate, verify

__all__ = ["Certificate", "Lessons", "Trade", "distill", "export", "prune", "trade", "verify"]
