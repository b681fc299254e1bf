"""A benchmark of search: Luthier's strategies and other tuners, on the same trainings, under one protocol.

docs/benchmarks.md says what is measured and how to run it.
"""
