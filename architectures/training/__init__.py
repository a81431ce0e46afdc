"""Training, evaluation and pictures of the paper's experiments: what `python -m architectures` runs, on Lightning."""

from contextlib import suppress

with suppress(ModuleNotFoundError):  # matplotlib, without which some commands work
    from architectures.pictures import (
        figures as figures,  # `figures` must come before Lightning, and says why
    )
