"""Does it learn at all?"""

from __future__ import annotations

from collections.abc import Generator, Sequence

from luthier.core.params import Config
from luthier.core.trial import TrialRecord
from luthier.diagnosis.sanity import SanityVerdict, judge_sanity
from luthier.knowledge import smallest
from luthier.playbook.script import Look, Script, Verdict, Wish, unaffordable


def sanity(look: Look) -> Script:
    """Loss at init near the trivial one; one batch can be learned by heart: on the smallest model of the space."""
    if "sanity" not in look.history.study.probes:
        return Verdict(
            "skipped", "your own training function is run as it is; only a Recipe can be checked", skipped=True
        )
    why = "the smallest model proves the pipeline before any search"
    small = smallest(look.space, look.default)
    run, found = yield from _ask(look, small, why)
    if run is not None and (found is None or found.fatal) and small != look.default:
        # Too small a model may fail where the pipeline is sound: only the default's failure condemns it.
        run, found = yield from _ask(look, look.default, "the smallest model failed; is it the model or the pipeline?")
    if run is None:
        return unaffordable(["the sanity check"])
    if found is None:
        reason = run.failure.reason if run.failure else "no answer"
        return Verdict(f"the check failed: {reason}", "what cannot be checked cannot be tuned", fatal=True)
    return Verdict(
        found.sentence,
        "; ".join(f"{name}: {text}" for name, _, text in found.checks),
        numbers={"checks": [list(c) for c in found.checks]},
        fatal=found.fatal,
    )


def _ask(
    look: Look, config: Config, why: str
) -> Generator[Sequence[Wish], list[TrialRecord], tuple[TrialRecord | None, SanityVerdict | None]]:
    """The probe's trial, None where there is no time left for one, and what its answer means, None where it did not
    answer."""
    runs = yield [look.wish(config, base={}, epochs=0, why=why, probe="sanity")]
    if not runs:
        return None, None
    return runs[0], judge_sanity(runs[0].answer) if runs[0].answer is not None else None
