"""Faults that are planted in the sources one at a time, each of which a test has to find: ``make mutate``."""
