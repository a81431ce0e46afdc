"""`python -m architectures`: train, evaluate and draw the paper's networks."""

import sys

from .training.cli import main

if __name__ == "__main__":
    sys.exit(main())
