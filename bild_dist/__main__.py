"""`python -m bild_dist` is `bild`."""

import sys

from bild_dist.app import main

sys.exit(main())
