"""Part of benchmarks/emoji.py: training of one method, which can be stopped and continued at the last saved step."""

import time
from pathlib import Path
from typing import Any

import torch

from emage import tokenizers
from emage.config import Method, TrainConfig, preset
from emage.data.token_table import Batch, TokenTable
from emage.inference.pipeline import Emage
from emage.model import checkpoint
from emage.training.engine import BareEngine, Objective
from emage.training.estimate import parameters_and_flops
from emage.training.loop import fit
from emage.training.spike_guard import SpikeGuard
from emage.utils import manifest

WARM_START = 0.6  # of iterative2 and iterative3
TEXT_LENGTH = 17  # of the longest caption
STEPS_PER_LINE, STEPS_PER_SAVE = 50, 100


def settings_of(method: Method, table: Path, steps: int, batch: int, seed: int) -> TrainConfig:
    """Return the settings of a training: those of the preset demo, for this table."""
    return preset(
        TrainConfig,
        "demo",
        method=method,
        data={"path": str(table)},
        model={"text": "clip_tiny", "text_length": TEXT_LENGTH},
        objective={"warm_start": WARM_START, "given_share": 0.0},  # no training for inpainting
        optim={"optimizer": "muon", "lr": 1.5e-3, "steps": steps, "batch_size": batch, "micro_batch_size": batch},
        run={"output": "unused", "seed": seed},
    )


def train(folder: Path, config: TrainConfig, tokenizer: tokenizers.Tokenizer) -> dict[str, Any]:
    """Train a method and save its model in `folder`/model, unless it is there; return what is known of the training."""
    if (record := manifest.read_json(folder / "training.json")) is not None:
        return record
    table, seed = TokenTable(config.data.path, config.run.seed), config.run.seed
    parts = config.checkpoint_config(table.tokenizer.vocab_size, table.tokenizer.grid)
    torch.manual_seed(seed)
    network = checkpoint.build(parts)
    engine = BareEngine(Objective(network, config.method, config.objective), config.optim)
    guard, done = SpikeGuard(config.optim.max_spike), {"step": 0, "seconds": 0.0, "loss": []}
    state_file = folder / "state.pt"
    if state_file.exists():
        state = torch.load(state_file)  # weights_only: tensors and plain values
        network.load_state_dict(state["network"])
        engine.load_optimizer_state(state["optimizer"])
        guard, done = SpikeGuard(config.optim.max_spike, **state["guard"]), state["done"]
        print(f"{config.method}: continues at step {done['step']}", flush=True)
    first, started, before = done["step"], time.monotonic(), done["seconds"]

    def on_step(step: int, metrics: dict[str, float], batch: Batch) -> None:
        passed = time.monotonic() - started
        done.update(step=step, seconds=before + passed)
        if step % STEPS_PER_LINE == 0 or step == config.optim.steps:
            done["loss"].append([step, metrics["loss"]])
            each = passed / (step - first)
            left = each * (config.optim.steps - step) / 60
            print(
                f"{config.method}: step {step}/{config.optim.steps}, loss {metrics['loss']:.3f}, {each:.2f} s a step, "
                f"{left:.0f} minutes left",
                flush=True,
            )
        if step % STEPS_PER_SAVE == 0:
            state = {"network": network.state_dict(), "optimizer": engine.optimizer_state(), "guard": guard.state()}
            with manifest.new_file(state_file) as fresh:
                torch.save({**state, "done": done}, fresh)

    fit(engine, table, config, on_step, start=first, guard=guard)
    flops = parameters_and_flops.run_flops(config, network)
    counts = parameters_and_flops.count_parameters(network)
    checkpoint.save(folder / "model", network, tokenizer, parts, {"step": config.optim.steps})
    record = {"steps": config.optim.steps, "parameters": counts.total, "training_flops": flops}
    record |= {"skipped_steps": guard.skipped, "training_s": done["seconds"], "loss": done["loss"]}
    manifest.write_json(folder / "training.json", record)
    state_file.unlink(missing_ok=True)
    return record


def pipe(folder: Path) -> Emage:
    """Return the model that `train` has saved."""
    return Emage.from_pretrained(str(folder / "model"))
