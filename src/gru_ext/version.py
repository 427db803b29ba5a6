"""The version of the package, as setup.py compiles it into the library; pyproject.toml has the same."""

__version__ = "0.1.0"
