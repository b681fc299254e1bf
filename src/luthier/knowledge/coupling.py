"""Hyperparameters that scale with the batch size, so that a search may vary the batch without losing the good rate."""

from __future__ import annotations

from dataclasses import replace

from luthier.core.errors import SpaceError
from luthier.core.params import Float, Follows
from luthier.knowledge.roles import family, roles

POWERS = {
    # Square root for adaptive methods (Malladi et al., arXiv 2205.10287), linear for SGD (Goyal et al., 1706.02677).
    "learning_rate": (0.5, {"sgd": 1.0}),
    # Decoupled decay keeps its time scale 1 / (rate x decay) in epochs (Wang and Aitchison, arXiv 2405.13698): with the
    # rate at sqrt(k) and 1/k of the updates it goes with sqrt(k). Coupled L2 (SGD, RMSProp, Adam) is left alone.
    "weight_decay": (0.5, {"sgd": 0.0, "rmsprop": 0.0, "adam": 0.0}),
}


def coupled(
    param: Float, to: str = "batch_size", *, reference: float = 64.0, role: str = "learning_rate", by: str | None = None
) -> Float:
    """``param`` whose range holds at ``to == reference`` and scales with ``to`` from there.

    Searchers propose in the coupled coordinates; configurations, and so the log, hold plain values.

    >>> space = lt.Space(
    ...     batch_size=lt.Int(16, 512, log=True),
    ...     optimizer=lt.Choice("adamw", "sgd"),
    ...     learning_rate=lt.coupled(lt.Float(1e-4, 1e-2, log=True), "batch_size", reference=64, by="optimizer"),
    ... )

    Args:
        param: the range at the reference.
        to: the hyperparameter that is followed, usually the batch size.
        reference: its value at which the range is meant, above 0.
        role: ``learning_rate`` (square root of the change for the Adam family and RMSProp, linear for SGD) or
            ``weight_decay`` (square root for decoupled decay, unchanged for coupled L2).
        by: the hyperparameter that names the optimizer, in whatever spelling; without one the adaptive methods'
            exponent holds.

    Raises:
        SpaceError: something that is no Float, an unknown role, or a reference that is not above 0.
    """
    if not isinstance(param, Float):
        raise SpaceError(f"coupled() got {param!r}.", "Only a Float can follow another hyperparameter.")
    if role not in POWERS:
        raise SpaceError(f"coupled(): no rule for role {role!r}.", f"Known: {', '.join(POWERS)}.")
    if not reference > 0:
        raise SpaceError(f"coupled(): the reference must be above 0, got {reference!r}.")
    power, powers = POWERS[role]
    follows = Follows(to, float(reference), power, by, powers if by else {}, family if by else None)
    return replace(param, follows=follows, role=param.role or roles()[role].name)
