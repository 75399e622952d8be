"""As the command line does: before torch loads, so that the suite does not crawl where cores are shared."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
