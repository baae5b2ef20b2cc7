"""Does an environment follow the API? What `marl check` runs: stricter than PettingZoo's own tests.

First the raw environment is played as it is, whole episodes, three times with one seed: in two fresh copies and once
more in the second. Everything it returns is examined against its spaces and its own words, and the three plays must
agree. Then episodes begin as all but the first do in training, without a seed. If nothing is wrong it runs through the
adapter that training uses, which gives random returns and speed.
"""

from marl.conformance.checks import check
from marl.conformance.report import CheckReport, Finding

__all__ = ["CheckReport", "Finding", "check"]
