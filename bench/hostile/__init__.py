"""Hostile inputs: random calls of the public interface that try to make it crash, hang or be wrong.

`python -m bench.hostile` is the command line. A call depends on the seed and its number alone. Reading order: `drawing`
makes tensors and thetas, `sampled` draws a call of `st_sample` and judges what it gives, by the bounds of `truth`;
`refused` spoils one argument of such a call; `utilities` calls everything else; `guards` watches memory; `calls` gives
the outcome of a numbered call; `processes` runs many in a process that may crash or hang.

What is right:

- a result and both gradients within rounding of the plain-torch definition in float64 (`truth` says how far), or a
  constant that the contract names where a coordinate lies far outside or is not finite;
- finite numbers within the range of the input where a coordinate is so large, or a divisor so near 0, that rounding
  alone decides where it lies;
- an error of the right type whose message names the argument, for a call that cannot be.

Anything else fails, and so does a changed argument, a byte written beside a result, and a call that does not end.
"""
