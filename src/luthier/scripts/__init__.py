"""Any training script, unchanged: a command that is run for each trial, its output read for metrics.

:class:`luthier.Script` (``script.py``) is a training function like any other. What it is made of: the command with its
placeholders (``command.py``) and the configuration file (``template.py``), the process below its guard
(``process.py``), torchrun's ranks (``launched.py``), what the output says (``lines.py``, ``names.py``, ``files.py``)
and which epoch it says it of (``gather.py``).
``options.py`` and ``draft.py`` read a script's own options and make a first search space of them.
"""
