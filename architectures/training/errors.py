"""What ends a command with one line on stderr."""

from __future__ import annotations


class UsageError(Exception):
    """Arguments that cannot be meant: exit status 2."""


class CheckpointError(Exception):
    """A checkpoint that is missing, broken, or not of this program or network: exit status 1."""
