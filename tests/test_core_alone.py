"""The core must import without Ray, DeepSpeed, MLflow and img2dataset."""

import subprocess
import sys

BLOCKED = """
import importlib.abc, pkgutil, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("ray", "deepspeed", "mlflow", "img2dataset"):
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Block())
import emage
names = [m.name for m in pkgutil.walk_packages(emage.__path__, "emage.") if not m.name.startswith("emage.on_ray")]
for name in names:
    __import__(name)
assert emage.Emage.__name__ == "Emage" and len(names) > 20, names
"""


def test_every_core_module_imports_without_the_cluster():
    subprocess.run([sys.executable, "-c", BLOCKED], check=True, timeout=120)


def test_importing_emage_alone_is_cheap():
    code = "import sys, emage; assert 'torch' not in sys.modules and 'open_clip' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_programs_start_without_what_only_their_workers_need():
    """open_clip takes five seconds to import, torch three: Ray Train's controller needs neither, drivers only torch."""
    code = """
import sys, emage.on_ray.training.job
assert not {"torch", "ray", "open_clip"} & set(sys.modules)
import emage.on_ray.evaluation.driver, emage.on_ray.ingest.driver
import emage.on_ray.serving.driver, emage.on_ray.training.driver
assert not {"open_clip", "transformers", "deepspeed", "mlflow", "img2dataset"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
