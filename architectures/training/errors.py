"""Errors that end a command with one line on stderr, as `CheckpointError` and `DataError` do."""

from __future__ import annotations


class UsageError(Exception):
    """Arguments that are wrong, or do not fit each other: exit status 2."""


class Diverged(Exception):
    """Training whose loss or weights are not finite: exit status 1. Without a message, another process tells it."""


class ExportError(Exception):
    """A network that cannot be exported, or whose export gives other results: exit status 1."""
