"""One training step through DeepSpeed beside the same step in bare PyTorch: same network, rows, threads, one run.

python benchmarks/train.py            # prints milliseconds a step and the ratio DeepSpeed / bare
"""

import os
import socket
import statistics
import time

import torch

from emage.config import CheckpointConfig, TrainConfig, preset
from emage.methods import METHODS
from emage.model import Network
from emage.on_ray.train import DeepSpeedEngine
from emage.shapes import train_scenes
from emage.token_table import Batch
from emage.training import BareEngine, Objective, train_step

ROUNDS, STEPS = 5, 10


def main() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    config = preset(TrainConfig, "demo", data={"path": "unused"}, run={"output": "unused"}, method="iterative1")
    parts = CheckpointConfig(config.method, 512, (8, 8), config.model)
    size = config.optim.batch_size
    captions = [scene.caption for scene in train_scenes(size, seed=0)]
    batch = Batch(list(range(size)), captions, torch.randint(0, 133, (size, 64)), list(range(size)))

    def objective() -> Objective:
        torch.manual_seed(0)
        network = Network(parts.model, parts.vocab_size, parts.grid, causal=METHODS[parts.method].CAUSAL)
        return Objective(network, config.method, config.objective)

    engines = {"bare": BareEngine(objective(), config.optim), "deepspeed": DeepSpeedEngine(objective(), config, 1)}
    times: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(ROUNDS):  # in turns, so that whatever else the machine does falls on both
        for name, engine in engines.items():
            started = time.perf_counter()
            for _ in range(STEPS):
                train_step(engine, batch, config, lr=1e-4, warming=False)
            times[name].append((time.perf_counter() - started) / STEPS * 1e3)
    median = {name: statistics.median(values[1:]) for name, values in times.items()}  # the first round warms up
    print(f"bare {median['bare']:.1f} ms, DeepSpeed {median['deepspeed']:.1f} ms a step of {size} pictures")
    print(f"ratio {median['deepspeed'] / median['bare']:.2f}")


if __name__ == "__main__":
    main()
