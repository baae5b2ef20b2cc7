"""What is asked of trained systems and of many runs: tournaments, exploitability, sweeps, games, comparisons."""

from marl.film import Played, play
from marl.studies import statistics
from marl.studies.compare import compare
from marl.studies.comparison import Comparison
from marl.studies.exploit import Exploitation, exploit
from marl.studies.scores import ScoreRow, Scores
from marl.studies.sweep import Sweep, sweep
from marl.studies.tables import Table, tables
from marl.studies.tournament import Tournament, tournament
from marl.studies.versus import Score, versus

__all__ = [
    "Comparison",
    "Exploitation",
    "Played",
    "Score",
    "ScoreRow",
    "Scores",
    "Sweep",
    "Table",
    "Tournament",
    "compare",
    "exploit",
    "play",
    "statistics",
    "sweep",
    "tables",
    "tournament",
    "versus",
]
