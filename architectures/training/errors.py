"""What ends a command with one line on stderr, beside `CheckpointError` and `DataError`."""

from __future__ import annotations


class UsageError(Exception):
    """Arguments that cannot be meant: exit status 2."""


class Diverged(Exception):
    """Training that makes no sense to go on with: exit status 1. Without a message where another process tells it."""


class ExportError(Exception):
    """A network that cannot be exported, or whose export gives something else: exit status 1."""
