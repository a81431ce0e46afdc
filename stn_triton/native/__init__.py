"""The sampler for CPUs in C++.

A call goes through `function` (autograd), `sampler` (the arguments of a call) and `library` (ctypes) into C++.
`call.h` has their order of reading.
"""

from . import function, library, sampler

__all__ = ["function", "library", "sampler"]
