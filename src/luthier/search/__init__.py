"""Where to look: searchers. Each is a frozen dataclass in a file of its own with ``name`` and ``suggest(history, rng)``."""
