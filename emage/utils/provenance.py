"""The git commit of the code that made a result."""

import subprocess
from pathlib import Path


def commit() -> str:
    """Return the git commit of the running code, with "-dirty" if files differ; "unknown" outside a checkout."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    except OSError:  # no git on this machine
        return "unknown"
    return found.stdout.strip() if found.returncode == 0 else "unknown"
