"""What a curve can say: one small function for each kind of finding.

To add a rule, write a function ``view -> Evidence | None`` under :func:`luthier.diagnosis.rules.rule.rule` in the
module of its tier; its name is the kind. Then run ``benchmarks/calibrate_diagnosis.py``, which measures how far to
trust it.
"""

from __future__ import annotations

from luthier.diagnosis.rules import fit as fit
from luthier.diagnosis.rules import length as length
from luthier.diagnosis.rules import optimization as optimization
from luthier.diagnosis.rules import pipeline as pipeline
from luthier.diagnosis.rules.rule import RULES, Evidence, Rank, Rule, declare

declare(
    "healthy",
    2,
    Rank.GOOD,
    "The training learns and nothing stands against it.",
    "The loss fell by 2 % of its reference and by 3 sigma, and no rule has more than a hint to give.",
)

__all__ = ["RULES", "Evidence", "Rank", "Rule"]
