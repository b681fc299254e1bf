"""Who trains, and how long: schedulers, each a frozen dataclass with ``propose`` and ``judge``."""
