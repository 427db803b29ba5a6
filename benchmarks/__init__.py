"""Microbenchmarks of gru_ext against its peers and against the limits of the machine: ``python -m benchmarks``."""
