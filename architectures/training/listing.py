"""What there is to train, as a table."""

from __future__ import annotations

from fnmatch import fnmatchcase

from architectures.networks.registry import list_models, model_input, parameter_count

from .experiments import EXPERIMENTS


def listing() -> str:
    """Every network with its experiments, parameters and input, then every experiment with its networks."""
    lines = [f"{'network':36s}{'parameters':>13s}   {'input':20s} experiments"]
    for name in list_models():
        parameters = parameter_count(name)
        where = [
            key
            for key, entry in EXPERIMENTS.items()
            if any(fnmatchcase(name, p) for p in entry.models)
        ]
        shape = " x ".join(map(str, model_input(name)))
        lines.append(f"{name:36s}{parameters:13,d}   {shape:20s} {' '.join(where)}")
    lines += ["", f"{'experiment':16s}{'default network':34s}{'paper: steps x batch':24s}fast"]
    for name, entry in EXPERIMENTS.items():
        sizes = [f"{s.steps:,} x {s.batch_size}" for s in (entry.paper, entry.fast)]
        lines.append(f"{name:16s}{entry.default:34s}{sizes[0]:24s}{sizes[1]}")
    return "\n".join(lines)
