"""What all tests share."""

import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "gpu" not in sys.argv:  # `-m gpu` alone: the others' bits and tolerances are a CPU's
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

from hypothesis import settings

# A deadline would measure the machine; timings live in benchmarks/.
settings.register_profile("charter", deadline=None)
settings.load_profile("charter")

pytest_plugins = ["tests.project_fixtures"]
