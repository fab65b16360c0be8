"""The fixtures of `tests/inference`, for the tests of `chat` too."""

from tests.inference.conftest import local, settings, target

__all__ = ["local", "settings", "target"]
