"""Options that are keywords of a function: those of a network, of a batch of data, of a data set."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from inspect import Parameter
from typing import Any


def free_keywords(function: Callable[..., Any]) -> dict[str, Parameter]:
    """The keyword-only parameters that `partial` has not bound, by name."""
    bound = function.keywords if isinstance(function, partial) else {}
    return {
        name: parameter
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is Parameter.KEYWORD_ONLY and name not in bound
    }


def check_known(what: str, options: Iterable[str], known: Iterable[str]) -> None:
    """Refuse options that are not known.

    Raises:
        TypeError: the message lists those there are.
    """
    names = list(known)
    for option in options:
        if option not in names:
            raise TypeError(f"{what} has no option {option!r}; it has {', '.join(names) or 'none'}")
