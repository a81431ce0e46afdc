"""`python -m architectures.demo`."""

import sys

from architectures.errors import missing_package

try:
    from .run import main
except ModuleNotFoundError as error:
    sys.exit(f"python -m architectures.demo: {missing_package(error)}")

if __name__ == "__main__":
    sys.exit(main())
