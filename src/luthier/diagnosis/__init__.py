"""Measurements in, judgements out; pure."""

from luthier.diagnosis.curves import Curves, Series
from luthier.diagnosis.early import dead, diverged, hopeless
from luthier.diagnosis.ending import ending
from luthier.diagnosis.finding import Diagnosis, Finding
from luthier.diagnosis.lr_range import LRSuggestion, suggest_lr
from luthier.diagnosis.read import KINDS, diagnose, diagnose_curves
from luthier.diagnosis.sanity import SanityVerdict, judge_sanity
from luthier.diagnosis.several import diagnose_study
from luthier.diagnosis.trial import from_trial

__all__ = [
    "KINDS",
    "Curves",
    "Diagnosis",
    "Finding",
    "LRSuggestion",
    "SanityVerdict",
    "Series",
    "dead",
    "diagnose",
    "diagnose_curves",
    "diagnose_study",
    "diverged",
    "ending",
    "from_trial",
    "hopeless",
    "judge_sanity",
    "suggest_lr",
]
