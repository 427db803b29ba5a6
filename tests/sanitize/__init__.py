"""The library compiled by sanitizers, and fuzzed: ``make sanitize``."""
