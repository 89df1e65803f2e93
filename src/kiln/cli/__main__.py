"""`python -m kiln.cli`."""

import sys

from .main import main

sys.exit(main())
