"""The core must import where Ray, DeepSpeed, MLflow and img2dataset are absent."""

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
