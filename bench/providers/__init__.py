"""Ours and its peers, one class in one file each; every file of this folder is found by itself."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pkgutil import iter_modules

from .provider import Provider

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

PROVIDERS: tuple[Provider, ...] = tuple(
    sorted((kind() for kind in Provider.kinds), key=lambda each: (each.turn, each.name))
)
"""In the order in which they are measured."""


def named(name: str) -> Provider:
    """The provider of that name, installed or not; `ValueError` if there is none."""
    found = next((each for each in PROVIDERS if each.name == name), None)
    if found is None:
        raise ValueError(f"no provider {name!r}; there are {[each.name for each in PROVIDERS]}")
    return found


def present(device: str, names: Iterable[str] | None = None) -> tuple[Provider, ...]:
    """The providers that can run here, or those among the named ones."""
    wanted = PROVIDERS if names is None else tuple(map(named, names))
    return tuple(each for each in PROVIDERS if each in wanted and each.available(device))
