"""An emulator of the compiled kernels: what they compute, what they touch and what they cost,
without a GPU. `python -m bench.emulate` is its command line.

A launch is compiled ahead of time for sm_90, and the PTX that Triton emits is executed with numpy:
the same launcher, launch grid, constants and warps as on a GPU. Reading order: `ptx` parses,
`arithmetic` says what single instructions compute, `expressions` and `translate` turn a basic block
into a Python function, `memory` holds the buffers and checks every access, `machine` runs blocks
under masks and counts, `calls` makes the launchers of `stn_triton` run in it. On the side of costs,
`sass` maps machine code to PTX, `l1` simulates a cache, `waiting` says how long warps take, and `model`
predicts times; `counting` does so for the cases of `bench.cases`, and `verify` compares values with
float64.

What is checked:

- every access of global and shared memory lies inside a buffer and is aligned;
- nothing reads memory that nobody wrote, or that another CTA of the same launch wrote;
- nothing writes to the caller's tensors, no byte is written twice unless its CTA has read it back
  in between, and no byte of a new tensor is left unwritten;
- whole CTAs meet at barriers, whole warps at shuffles, reductions and votes.

What it assumes:

- Lanes of one CTA run in lockstep where they can, the lowest program counter first. Races between
  the warps of a CTA are therefore not seen.
- `ptxas` is right: PTX is executed, not machine code.
- A float32 `fma` is computed in double precision and rounded once more; a float64 one has 80 bits.
  Denormal numbers are kept except by `.ftz`. Approximate divisions, roots, exponentials and
  logarithms are exact here unless `ulp` blurs them at random.
- Loops that `ptxas` unrolled are told by the copies of their memory instructions, shuffles or
  products, and slow paths of divisions are left out of the counts.

What it cannot do: atomics, asynchronous copies, matrix products other than float64's, calls, local
memory that is really used, half-precision arithmetic. Each of these raises `NotImplementedError`.

Of a launch that would take too long only a part of the CTAs runs, spread evenly. Its counts are
scaled up, its values are not seen, and its memory traffic is counted too high (up to four times as high
for volumes), since CTAs that lie side by side share sectors.

Times are **predicted**, by a model whose figures are in `model`; nothing here was measured on a GPU.
"""
