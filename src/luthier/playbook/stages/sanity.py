"""Does it learn at all?"""

from __future__ import annotations

from luthier.diagnose.sanity import judge_sanity
from luthier.knowledge import smallest
from luthier.playbook.script import Look, Script, Verdict


def sanity(look: Look) -> Script:
    """Loss at init near the trivial one; one batch can be learned by heart: on the smallest model of the space."""
    if "sanity" not in look.history.study.probes:
        return Verdict("skipped", "the training function is your own and cannot be questioned", skipped=True)
    config = smallest(look.space, look.default)
    why = "the smallest model proves the pipeline before any search"
    (run,) = yield [look.wish(config, epochs=0, why=why, probe="sanity")]
    if run.answer is None:
        reason = run.failure.reason if run.failure else "no answer"
        return Verdict(
            f"the check itself failed: {reason}", "a pipeline that cannot be checked cannot be tuned", fatal=True
        )
    found = judge_sanity(run.answer)
    return Verdict(
        found.sentence,
        "; ".join(f"{name}: {text}" for name, _, text in found.checks),
        numbers={"checks": [list(c) for c in found.checks]},
        fatal=found.fatal,
    )
