"""`python -m nnframe`: the command line."""

import sys

from nnframe.cli import main

sys.exit(main())
