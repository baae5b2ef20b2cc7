"""Many runs as one experiment; what is asked of trained systems: tournaments, best responses, sweeps, games, films."""

from marl.film import Played, play
from marl.studies.exploit import Exploitation, exploit
from marl.studies.study import Axis, Cell, Reference, Study
from marl.studies.study_folder import CellState, Row, StudyCell, StudyFolder
from marl.studies.sweep import Sweep, sweep
from marl.studies.tournament import Tournament, tournament
from marl.studies.versus import Score, versus

__all__ = [
    "Axis",
    "Cell",
    "CellState",
    "Exploitation",
    "Played",
    "Reference",
    "Row",
    "Score",
    "Study",
    "StudyCell",
    "StudyFolder",
    "Sweep",
    "Tournament",
    "exploit",
    "play",
    "sweep",
    "tournament",
    "versus",
]
