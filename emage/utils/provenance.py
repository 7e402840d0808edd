"""Which code made a result."""

import subprocess
from pathlib import Path


def commit() -> str:
    """The git commit of the code that runs, "-dirty" where files differ from it, or "unknown" outside a checkout."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    except OSError:  # no git on this machine
        return "unknown"
    return found.stdout.strip() if found.returncode == 0 else "unknown"
