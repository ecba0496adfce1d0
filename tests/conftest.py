"""What holds for all tests."""

import os

# Before torch is loaded, here and in every worker process: a tiny model's pass takes longer to share out among threads
# than to compute, the more so when other processes want the same cores.
os.environ["OMP_NUM_THREADS"] = "1"
