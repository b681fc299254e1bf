"""The loop, the log in hand, worker processes. Knows no algorithm by name."""
