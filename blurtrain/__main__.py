"""`python -m blurtrain` is the console script `blurtrain`."""

import sys

from blurtrain.cli import main

sys.exit(main())
