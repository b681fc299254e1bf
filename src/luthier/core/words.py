"""Counted nouns, as every text has them."""

from __future__ import annotations


def count(many: float, noun: str) -> str:
    """``1 trial``, ``1,200 trials``, ``0.4 epochs``; of what is no whole number one place below 10, else none."""
    text = f"{many:,.0f}" if many >= 10 or float(many).is_integer() else f"{many:.1f}"
    return f"{text} {noun}" if text == "1" else f"{text} {noun}s"


def epochs(amount: float) -> str:
    """``1 epoch``, ``12 epochs``, ``0.4 epochs``."""
    return count(amount, "epoch")
