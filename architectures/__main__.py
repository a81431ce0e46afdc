"""`python -m architectures`: train, evaluate, draw and export the paper's networks."""

import sys

from architectures.errors import missing_package

try:
    from .commands.main import main
except ModuleNotFoundError as error:
    sys.exit(f"python -m architectures: {missing_package(error)}")

if __name__ == "__main__":
    sys.exit(main())
