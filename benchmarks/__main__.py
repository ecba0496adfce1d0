"""`make bench`: every benchmark, one process at a time."""

import subprocess
import sys

for name in ("rollback", "heartbeat", "passes", "http"):
    subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)
