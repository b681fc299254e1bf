"""Measurements in, judgements out; pure."""

from luthier.diagnose.lr_range import LRSuggestion, suggest_lr
from luthier.diagnose.sanity import SanityVerdict, judge_sanity

__all__ = ["LRSuggestion", "SanityVerdict", "judge_sanity", "suggest_lr"]
