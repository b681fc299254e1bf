"""Who trains, and how long: schedulers. Each is a frozen dataclass with ``propose(history, rng)`` and ``judge(...)``."""
