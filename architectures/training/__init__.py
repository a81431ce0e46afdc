"""Training, evaluation and pictures of the paper's experiments: what `python -m architectures` runs, on Lightning."""
