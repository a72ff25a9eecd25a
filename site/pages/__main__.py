"""python -m pages [FOLDER]: builds the site."""

import sys

from pages.build import main

raise SystemExit(main(sys.argv[1:]))
