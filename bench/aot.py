"""Ahead-of-time compilation of recorded launches: the code that would run on a GPU, made without
one.

Only for processes without `TRITON_INTERPRET`: an interpreted kernel has nothing to compile.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import create_function_from_signature

from stn_triton.kernels.launch import Launch

from .disassembly import CodeFacts, amd_facts, nvidia_facts

ARCHS = ("sm_80", "sm_90", "sm_100", "gfx942")


def target(arch: str) -> GPUTarget:
    """`sm_90` or `gfx942` as Triton's target."""
    if match := re.fullmatch(r"sm_(\d+)", arch):
        return GPUTarget("cuda", int(match[1]), 32)
    if re.fullmatch(r"gfx9\w+", arch):
        return GPUTarget("hip", arch, 64)
    raise ValueError(f"no architecture {arch!r}; such as {', '.join(ARCHS)}")


def compile_launch(launch: Launch, arch: str) -> Any:
    """The `CompiledKernel` of one launch, specialised by the same code that specialises a real one.

    What a JIT call does between its arguments and the compiler: bind them, read off types,
    alignment and the integers that are 1 or divisible by 16 (unless the kernel asks not to), and
    pack that into the source. A tensor on the meta device counts as aligned, as every fresh
    allocation is.
    """
    kernel, where = launch.kernel, target(arch)
    backend = make_backend(where)
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    keywords = launch.keywords(int(where.arch) // 10 if where.backend == "cuda" else None)
    bound, specialization, options = bind(*launch.args, **keywords)
    options, signature, constexprs, attributes = kernel._pack_args(
        backend, keywords, bound, specialization, options
    )
    source = ASTSource(kernel, signature, constexprs, attributes)
    return triton.compile(source, target=where, options=options.__dict__)


def tool(name: str) -> str:
    """Path of `cuobjdump` or `nvdisasm`: the one in Triton's wheel, else one on the PATH."""
    bundled = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    found = str(bundled) if bundled.is_file() else shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"no {name}: neither in {bundled.parent} nor on the PATH")
    return found


def output_of(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(
            f"{Path(command[0]).name} failed: {done.stderr.strip() or done.stdout.strip()}"
        )
    return done.stdout


def facts(compiled: Any) -> CodeFacts:
    """Disassemble a compiled kernel and read off what the report shows."""
    if "amdgcn" in compiled.asm:
        return amd_facts(compiled.asm["amdgcn"])
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        return nvidia_facts(
            output_of(tool("nvdisasm"), "-c", str(cubin)),
            output_of(tool("cuobjdump"), "-res-usage", str(cubin)),
        )
