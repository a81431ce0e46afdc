"""Options that a user names: the keywords of the function that makes a network, a batch of data or a data set."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from inspect import Parameter
from os import PathLike
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


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


def check_kinds(function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Refuse values of another kind than the function's annotations say, before the function itself fails on them.

    Raises:
        TypeError: the message begins with the option's name.
    """
    kinds = annotated_kinds(function)
    for name, value in options.items():
        check_kind(name, value, kinds[name])


def annotated_kinds(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a function's keywords, or of those that a class is made with, by name."""
    if isinstance(function, partial):
        function = function.func
    return get_type_hints(function.__init__ if inspect.isclass(function) else function)


def check_kind(name: str, value: object, kind: Any) -> None:
    """Refuse a value that is not of the kind that an annotation names.

    Raises:
        TypeError: the message begins with `name`.
    """
    if not _fits(value, kind):
        raise TypeError(f"{name} must be {_shown(kind)}, got {value!r}")


def _fits(value: Any, kind: Any) -> bool:
    if get_origin(kind) in (Union, UnionType):
        return any(_fits(value, each) for each in get_args(kind))
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if get_origin(kind) is tuple:
        if not isinstance(value, tuple | list):
            return False
        kinds = get_args(kind)
        if kinds[-1] is ...:
            kinds = (kinds[0],) * len(value)
        return len(value) == len(kinds) and all(map(_fits, value, kinds))
    if get_origin(kind) is Callable:
        return True  # the network that is given the function checks it, and its message says more
    if kind is float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and math.isfinite(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, get_origin(kind) or kind)  # a `PathLike[str]` is a `PathLike`


def _shown(kind: Any) -> str:
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_shown(each) for each in get_args(kind))
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        if kinds[-1] is ...:
            return f"a tuple, of which each is {_shown(kinds[0])}"
        return f"({', '.join(map(_shown, kinds))})"
    names = {
        float: "a finite number",
        int: "an int",
        bool: "True or False",
        str: "a string",
        dict: "a dictionary",
        PathLike: "a path",
    }
    kind = get_origin(kind) or kind
    return "None" if kind is NoneType else names.get(kind, getattr(kind, "__name__", str(kind)))
