"""The stages on a Ray cluster: the only folder that imports Ray, DeepSpeed, img2dataset and MLflow."""

import os

# Lines of Ray's processes that need no action and stay in Ray's logs. Ray reads the variable when it is imported.
QUIET_LINES = (
    "RAY_DEDUP_LOGS_SKIP_REGEX",
    r"\[Gloo\] Rank \d+ is connected to|Task ServeController\.graceful_shutdown failed",
)
os.environ.setdefault(*QUIET_LINES)
