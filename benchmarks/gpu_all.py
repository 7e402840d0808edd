"""All that needs an NVIDIA GPU, in one run of at most twelve minutes: the tests marked gpu, then speed and precision.

python benchmarks/gpu_all.py             # at the root of the repository; needs the core and pytest, not Ray

Each part has a time limit, and a part that fails or takes too long does not stop the others. Prints the output of each
part and a table at the end; exits with 1 if a part failed. The parts write benchmarks/results/*-cuda.json.
"""

import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
TEST_FILES = ("tests/inference/test_cuda_graphs.py", "tests/model/test_device_support.py")
SPEED = ("dtypes=[bfloat16]", "batches=[1,64]", "steps=[16]", "peers=false", "seconds=0.4")
PARTS: dict[str, tuple[int, list[str]]] = {  # name -> (seconds at most, arguments of Python)
    "tests": (180, ["-m", "pytest", "-m", "gpu", "-q", "-n", "0", "-p", "no:cacheprovider", *TEST_FILES]),
    "speed": (360, ["benchmarks/generate.py", *SPEED]),
    "precision": (120, ["benchmarks/precision.py"]),
}


def main() -> int:
    """Run all parts; return 1 if one failed."""
    table = Table("part", "result", "seconds", "at most")
    failed = False
    for name, (limit, arguments) in PARTS.items():
        print(f"== {name}: at most {limit} s", flush=True)
        started = time.perf_counter()
        try:
            code = subprocess.run([sys.executable, *arguments], cwd=ROOT, timeout=limit).returncode
            result = "passed" if code == 0 else f"failed with exit code {code}"
        except subprocess.TimeoutExpired:
            code, result = 1, "stopped at its time limit"
        failed |= code != 0
        table.add_row(name, result, f"{time.perf_counter() - started:.0f}", str(limit))
    Console(width=100).print(table)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
