"""The settings of each experiment at either scale: trainings, evaluations, timings. Names are folders of the output.

models/METHOD-seedS[-bert][-cosine][-halton][-cosine_groups][-half][-500k]   a training
evaluations/MODEL[-steps8][-linear][-halton]   images of held-out captions, and their scores
latency/MODEL[-steps8][-uncached]              seconds per image
strips/MODEL, tokenizers, world                Figure 5, Table 2, the data set of scale=small
methods_grid                                   images of all methods for the same captions and seeds
"""

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from emage import tokenizers
from emage.config import EvaluateConfig, Method, ReproduceConfig, Schedule, Table2Config, TrainConfig, preset
from emage.data import shapes
from emage.methods import METHODS
from emage.reproduce import shapes_dataset
from emage.reproduce.experiments import WORK, Experiment
from emage.reproduce.latency import LatencyConfig
from emage.reproduce.paper_numbers import FIGURE5_PROMPTS
from emage.reproduce.shapes_dataset import SmallWorld

TextEncoder = Literal["clip", "bert"]
MaskOrder = Literal["random", "halton"]
Config = TypeVar("Config", TrainConfig, EvaluateConfig)

# With scale=small, iterative2 and iterative3 learn to ignore their image context if they are trained from scratch: they
# are trained as iterative1 for this fraction of the steps.
WARM_START = 0.6
SMALL_STEPS = 1_000
BERT_TINY_TEXT_LENGTH = 77  # positions; it reads letters, not words


@dataclass(frozen=True)
class Strips:
    """Settings of Figure 5. The field names are part of fingerprints on disk (emage.reproduce.experiments)."""

    checkpoint: str
    captions: tuple[str, ...]
    device: str
    output: str
    steps: int = 16


@dataclass(frozen=True)
class MethodGrid:
    """Settings of the grid of all methods. The field names are part of fingerprints on disk."""

    checkpoints: dict[str, str]  # folder by label
    captions: tuple[str, ...]
    device: str
    output: str
    seed: int = 0  # of the first caption's image; the next has the next


# Names of the programs in fingerprints on disk. They are data: another name would run every experiment again, so they
# stay as they are when a class is renamed.
PROGRAM_NAMES: dict[type, str] = {
    SmallWorld: "SmallWorld",
    TrainConfig: "TrainConfig",
    EvaluateConfig: "EvaluateConfig",
    LatencyConfig: "LatencyConfig",
    Table2Config: "Table2Config",
    Strips: "Strips",
    MethodGrid: "MethodGrid",
}


def _experiment(name: str, config: Any, needs: tuple[Experiment, ...] = (), lock: str | None = None) -> Experiment:
    return Experiment(name, config, PROGRAM_NAMES[type(config)], needs, lock)


def small_world(config: ReproduceConfig) -> Experiment:
    """Return the experiment that makes the data set of scale=small."""
    small = config.small
    output = _work(config, "world")
    return _experiment("world", SmallWorld(small.pictures, small.captions, small.references, output=output))


def training(
    config: ReproduceConfig,
    method: Method,
    seed: int,
    *,
    mask: Schedule = "linear",
    mask_order: MaskOrder = "random",
    groups: Schedule = "cubic",
    text: TextEncoder = "clip",
    half: bool = False,
    long: bool = False,
) -> Experiment:
    """Return the training of one model.

    Args:
        mask: The schedule of training masks (Figure 4).
        mask_order: The positions that training masks (ours).
        groups: The schedule of parallel_autoregressive's groups (ours).
        text: The text encoder (Table 5).
        half: Train for half of the steps (ours).
        long: Train for the paper's 500k steps in place of 250k. Ignored with scale=small.
    """
    small = is_small(config)
    suffixes = {
        text: text != "clip",
        mask: mask != "linear",
        mask_order: mask_order != "random",
        f"{groups}_groups": groups != "cubic",
        "half": half,
        "500k": long and not small,
    }
    name = "-".join(["models/" + method, f"seed{seed}", *(suffix for suffix, is_used in suffixes.items() if is_used)])
    if small:
        settings = _small_training(config, name, method, seed, text)
    else:
        settings = _paper_training(config, name, method, seed, text, long)
    objective = replace(settings.objective, mask_schedule=mask, mask_order=mask_order, group_schedule=groups)
    optim = replace(settings.optim, steps=settings.optim.steps // 2) if half else settings.optim
    needs = (small_world(config),) if small else ()
    return _experiment(name, replace(settings, objective=objective, optim=optim), needs)


def _small_training(config: ReproduceConfig, name: str, method: Method, seed: int, text: TextEncoder) -> TrainConfig:
    base, small, steps = _preset(TrainConfig, "demo"), config.small, config.steps or SMALL_STEPS
    encoder = replace(base.model, text="clip_tiny")
    if text == "bert":
        encoder = replace(base.model, text="bert_tiny", text_length=BERT_TINY_TEXT_LENGTH)
    return replace(
        base,
        method=method,
        data=replace(base.data, path=f"{small_world(config).config.output}/{shapes_dataset.TOKENS}"),
        model=encoder,
        objective=replace(
            base.objective, warm_start=WARM_START if METHODS[method].TWO_PASSES else 0.0, given_share=0.0
        ),
        optim=replace(base.optim, steps=steps, batch_size=small.batch_size, micro_batch_size=small.batch_size),
        sampling=replace(base.sampling, order="confidence"),  # the paper's
        run=replace(
            base.run,
            output=_work(config, name),
            seed=seed,
            cpus_per_worker=small.cpus,
            sample_every=steps,
            checkpoint_every=min(steps, 500),
            prompts=tuple(scene.caption for scene in shapes.sample_held_out_scenes(8, seed=1)),
        ),
        mlflow=config.training_mlflow,
    )


def _paper_training(
    config: ReproduceConfig, name: str, method: Method, seed: int, text: TextEncoder, long: bool
) -> TrainConfig:
    base, paper = _preset(TrainConfig, "paper" if long else "paper_250k"), config.paper
    encoder = replace(base.model, text_weights=paper.text_weights)
    if text == "bert":
        encoder = replace(base.model, text="bert_base", text_weights=paper.bert_weights)
    return replace(
        base,
        method=method,
        data=replace(base.data, path=paper.data or "", tokenizer_weights=paper.tokenizer_weights),
        model=encoder,
        optim=replace(base.optim, steps=config.steps or base.optim.steps),
        run=replace(
            base.run, output=_work(config, name), seed=seed, num_workers=paper.num_workers, prompts=FIGURE5_PROMPTS
        ),
        mlflow=config.training_mlflow,
    )


def evaluation(config: ReproduceConfig, model: Experiment, **sampling: Any) -> Experiment:
    """Return the evaluation of a trained model on held-out captions, with these sampling settings.

    Settings that are the model's defaults do not make another experiment.
    """
    changed = _changed(model, sampling)
    name = f"evaluations/{_model_name(model)}{_suffix(changed)}"
    base = _small_evaluation(config) if is_small(config) else _paper_evaluation(config)
    settings = replace(
        base,
        checkpoint=f"{model.config.run.output}/model",
        output=_work(config, name),
        sampling=changed,
        mlflow=config.mlflow,
    )
    return _experiment(name, settings, (model,))


def _small_evaluation(config: ReproduceConfig) -> EvaluateConfig:
    base, world = _preset(EvaluateConfig, "demo"), small_world(config).config.output
    return replace(
        base,
        captions=f"{world}/{shapes_dataset.CAPTIONS}",
        limit=config.small.captions,
        metrics=("shapes", "frechet"),
        judge=replace(base.judge, reference=f"{world}/{shapes_dataset.REFERENCE}"),
    )


def _paper_evaluation(config: ReproduceConfig) -> EvaluateConfig:
    base, paper = _preset(EvaluateConfig, "paper"), config.paper
    return replace(
        base,
        captions=paper.captions or "",
        rank_weights=paper.rank_weights,
        metrics=("fid", "clip_score"),
        judge=replace(
            base.judge, reference=paper.reference, inception=paper.inception, clip_weights=paper.clip_weights
        ),
        num_actors=paper.num_actors,
    )


def latency(config: ReproduceConfig, model: Experiment, **sampling: Any) -> Experiment:
    """Return the timing of a trained model, with these sampling settings in place of its own."""
    changed = _changed(model, sampling)
    return _timing(config, model, f"latency/{_model_name(model)}{_suffix(changed)}", LatencyConfig("", "", changed))


def uncached(config: ReproduceConfig, model: Experiment) -> Experiment:
    """Return the timing of the autoregressive model without its cache; at scale=paper an image takes a minute."""
    settings = LatencyConfig("", "", cached=False)
    if not is_small(config):
        settings = replace(settings, rounds=3, warm_up=1)
    return _timing(config, model, f"latency/{_model_name(model)}-uncached", settings)


def _timing(config: ReproduceConfig, model: Experiment, name: str, settings: LatencyConfig) -> Experiment:
    """Return a timing; the shared lock keeps timings from running at the same time."""
    prompt = model.config.run.prompts[0]
    settings = replace(settings, checkpoint=f"{model.config.run.output}/model", prompt=prompt, device=config.device)
    return _experiment(name, settings, (model,), lock="latency")


def tokenizer_comparison(config: ReproduceConfig) -> Experiment:
    """Return the experiment of Table 2. By default scale=small measures the shipped tokenizer, on rendered images."""
    settings, needs = replace(config.table2, output=_work(config, "tokenizers")), ()
    if is_small(config):
        settings = replace(settings, tokenizers=settings.tokenizers or (tokenizers.DEMO,))
        if settings.pictures is None:
            needs = (small_world(config),)
            settings = replace(settings, pictures=f"{needs[0].config.output}/{shapes_dataset.REFERENCE}")
    return _experiment("tokenizers", settings, needs)


def filmstrips(config: ReproduceConfig, model: Experiment) -> Experiment:
    """Return the experiment of Figure 5, with the paper's prompts or, with scale=small, held-out captions."""
    prompts = FIGURE5_PROMPTS
    if is_small(config):
        prompts = tuple(scene.caption for scene in shapes.sample_held_out_scenes(4, seed=2))
    name = f"strips/{_model_name(model)}"
    settings = Strips(f"{model.config.run.output}/model", prompts, config.device, _work(config, name))
    return _experiment(name, settings, (model,))


def method_grid(config: ReproduceConfig, models: dict[str, Experiment]) -> Experiment:
    """Return the experiment that generates the same captions with each of the models, which are by label."""
    prompts = FIGURE5_PROMPTS
    if is_small(config):
        prompts = tuple(scene.caption for scene in shapes.sample_held_out_scenes(8, seed=2))
    checkpoints = {label: f"{model.config.run.output}/model" for label, model in models.items()}
    settings = MethodGrid(checkpoints, prompts, config.device, _work(config, "methods_grid"))
    return _experiment("methods_grid", settings, tuple(models.values()))


# --- Names and presets ------------------------------------------------------------------------------------------------


def is_small(config: ReproduceConfig) -> bool:
    """Return whether the scale is "small"."""
    return config.scale == "small"


def _changed(model: Experiment, sampling: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in sampling.items() if getattr(model.config.sampling, key) != value}


def _suffix(sampling: dict[str, Any]) -> str:
    return "".join(f"-{key}{value}" if key == "steps" else f"-{value}" for key, value in sampling.items())


def _model_name(model: Experiment) -> str:
    return model.name.removeprefix("models/")


def _work(config: ReproduceConfig, name: str) -> str:
    return str(Path(config.output).absolute() / name / WORK)


@functools.cache  # a study has dozens of configs, and OmegaConf is slow
def _preset(kind: type[Config], name: str) -> Config:
    """Return a preset with empty paths, which the caller fills in."""
    paths: dict[type, dict[str, Any]] = {
        TrainConfig: {"data": {"path": ""}, "run": {"output": ""}},
        EvaluateConfig: {"checkpoint": "", "captions": "", "output": ""},
    }
    return preset(kind, name, **paths[kind])
