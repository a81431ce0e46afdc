"""The sampler for CPUs in C++: sources, how they are built and loaded, and how they are called."""

from . import function, library, sampler

__all__ = ["function", "library", "sampler"]
