"""The command line `python -m architectures`: `main` runs the command, `arguments` has the kinds of its arguments."""
