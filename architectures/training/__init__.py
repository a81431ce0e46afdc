"""Training, evaluation and pictures of the paper's experiments: what `python -m architectures` runs, on Lightning."""

from contextlib import suppress

with suppress(ModuleNotFoundError):  # not all commands draw
    from architectures.pictures import figures as figures  # before Lightning; it says why
