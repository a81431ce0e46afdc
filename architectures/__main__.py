"""`python -m architectures`: train, evaluate, draw and export the paper's networks."""

import sys

from .commands.main import main

if __name__ == "__main__":
    sys.exit(main())
