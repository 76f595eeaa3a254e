"""What all tests share."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from hypothesis import settings

# A deadline would measure the machine; timings live in benchmarks/.
settings.register_profile("charter", deadline=None)
settings.load_profile("charter")

pytest_plugins = ["tests.project_fixtures"]
