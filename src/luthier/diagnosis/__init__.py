"""Measurements in, judgements out; pure."""

from luthier.diagnosis.curves import Curves, Series
from luthier.diagnosis.finding import Diagnosis, Finding
from luthier.diagnosis.lr_range import LRSuggestion, suggest_lr
from luthier.diagnosis.read import diagnose_curves, diagnose_study
from luthier.diagnosis.sanity import SanityVerdict, judge_sanity

__all__ = [
    "Curves",
    "Diagnosis",
    "Finding",
    "LRSuggestion",
    "SanityVerdict",
    "Series",
    "diagnose_curves",
    "diagnose_study",
    "judge_sanity",
    "suggest_lr",
]
