"""Where to look: searchers, each a frozen dataclass in a file of its own with ``name`` and ``suggest``."""
