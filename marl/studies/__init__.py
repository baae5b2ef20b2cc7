"""Many runs as one experiment, compared; what is asked of trained systems: tournaments, sweeps, games, films."""

from marl.film import Played, play
from marl.studies import statistics
from marl.studies.compare import compare
from marl.studies.comparison import Comparison
from marl.studies.evolution import AddNoise, BinaryTournament, Perturb, Succession, Truncation, evolve
from marl.studies.exploit import Exploitation, exploit
from marl.studies.growth import Grow
from marl.studies.lineage import Descent, Lineage
from marl.studies.population import Population
from marl.studies.rate_range import RateRange, find_lr
from marl.studies.scores import ScoreRow, Scores
from marl.studies.search import Search
from marl.studies.spaces import Choice, IntUniform, LogUniform, Uniform
from marl.studies.stacked import train_stacked
from marl.studies.study import Axis, Cell, Reference, Study
from marl.studies.study_folder import CellState, StudyCell, StudyFolder
from marl.studies.sweep import Sweep, sweep
from marl.studies.tables import Table, tables
from marl.studies.tournament import Tournament, tournament
from marl.studies.versus import Score, versus

__all__ = [
    "AddNoise",
    "Axis",
    "BinaryTournament",
    "Cell",
    "CellState",
    "Choice",
    "Comparison",
    "Descent",
    "Exploitation",
    "Grow",
    "IntUniform",
    "Lineage",
    "LogUniform",
    "Perturb",
    "Played",
    "Population",
    "RateRange",
    "Reference",
    "Score",
    "ScoreRow",
    "Scores",
    "Search",
    "Study",
    "StudyCell",
    "StudyFolder",
    "Succession",
    "Sweep",
    "Table",
    "Tournament",
    "Truncation",
    "Uniform",
    "compare",
    "evolve",
    "exploit",
    "find_lr",
    "play",
    "statistics",
    "sweep",
    "tables",
    "tournament",
    "train_stacked",
    "versus",
]
