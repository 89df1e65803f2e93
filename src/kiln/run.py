"""`python -m kiln.run`: what `kiln run` does."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
