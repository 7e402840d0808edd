"""How the cells of the studies are made, at either scale: a training, an evaluation, a timing.

models/METHOD-seedS[-bert][-cosine][-500k]     a training
evaluations/MODEL[-steps8][-linear]            images of held-out captions, and their figures
latency/MODEL[-steps8][-uncached]              seconds an image
strips/MODEL, tokenizers, world                Figure 5, Table 2, what scale=small works on
"""

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from emage import tokenizers
from emage.config import EvaluateConfig, Method, ReproduceConfig, Schedule, TrainConfig, preset
from emage.data import shapes
from emage.methods import METHODS
from emage.reproduce import shapes_dataset
from emage.reproduce.experiments import WORK, Cell
from emage.reproduce.latency import LatencyConfig
from emage.reproduce.paper_numbers import FIGURE5_PROMPTS
from emage.reproduce.shapes_dataset import SmallWorld

Text = Literal["clip", "bert"]
Program = TypeVar("Program", TrainConfig, EvaluateConfig)

WARM_START = 0.6  # in small: #2 and #3 from scratch learn to ignore the image they are given
SMALL_STEPS = 1_500
LETTERS = 77  # positions of the small BERT, which reads letters and not words


@dataclass(frozen=True)
class Strips:
    """Figure 5: images forming."""

    checkpoint: str
    captions: tuple[str, ...]
    device: str
    output: str
    steps: int = 16


def world(config: ReproduceConfig) -> Cell:
    small = config.small
    return Cell(
        "world", SmallWorld(small.pictures, small.captions, small.references, output=_work(config, "world")), ()
    )


def training(
    config: ReproduceConfig,
    method: Method,
    seed: int,
    *,
    mask: Schedule = "linear",
    text: Text = "clip",
    long: bool = False,
) -> Cell:
    """One model. `mask`: the schedule of Figure 4; `long`: the paper's 500k steps, for which small has no time."""
    small = is_small(config)
    marks = [text if text != "clip" else "", mask if mask != "linear" else "", "500k" if long and not small else ""]
    name = "-".join(["models/" + method, f"seed{seed}", *filter(None, marks)])
    if small:
        return Cell(name, _small_training(config, name, method, seed, mask, text), (world(config),))
    return Cell(name, _paper_training(config, name, method, seed, mask, text, long))


def _small_training(
    config: ReproduceConfig, name: str, method: Method, seed: int, mask: Schedule, text: Text
) -> TrainConfig:
    base, small, steps = _preset(TrainConfig, "demo"), config.small, config.steps or SMALL_STEPS
    encoder = replace(base.model, text="clip_tiny")
    if text == "bert":
        encoder = replace(base.model, text="bert_tiny", text_length=LETTERS)
    return replace(
        base,
        method=method,
        data=replace(base.data, path=f"{world(config).config.output}/{shapes_dataset.TOKENS}"),
        model=encoder,
        objective=replace(
            base.objective, mask_schedule=mask, warm_start=WARM_START if METHODS[method].TWO_PASSES else 0.0
        ),
        optim=replace(base.optim, steps=steps, batch_size=small.batch_size, micro_batch_size=small.batch_size),
        run=replace(
            base.run,
            output=_work(config, name),
            seed=seed,
            cpus_per_worker=small.cpus,
            sample_every=steps,
            checkpoint_every=min(steps, 500),
            prompts=tuple(scene.caption for scene in shapes.sample_held_out_scenes(8, seed=1)),
        ),
        mlflow=config.mlflow,
    )


def _paper_training(
    config: ReproduceConfig, name: str, method: Method, seed: int, mask: Schedule, text: Text, long: bool
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
        objective=replace(base.objective, mask_schedule=mask),
        optim=replace(base.optim, steps=config.steps or base.optim.steps),
        run=replace(base.run, output=_work(config, name), seed=seed, num_workers=paper.num_workers),
        mlflow=config.mlflow,
    )


def evaluation(config: ReproduceConfig, model: Cell, **sampling: Any) -> Cell:
    """A model's images of held-out captions. `sampling` that the model has by itself makes no other cell."""
    changed = _changed(model, sampling)
    name = f"evaluations/{_tail(model)}{_suffix(changed)}"
    made = _small_evaluation(config) if is_small(config) else _paper_evaluation(config)
    made = replace(
        made,
        checkpoint=f"{model.config.run.output}/model",
        output=_work(config, name),
        sampling=changed,
        mlflow=config.mlflow,
    )
    return Cell(name, made, (model,))


def _small_evaluation(config: ReproduceConfig) -> EvaluateConfig:
    base, here = _preset(EvaluateConfig, "demo"), world(config).config.output
    return replace(
        base,
        captions=f"{here}/{shapes_dataset.CAPTIONS}",
        limit=config.small.captions,
        metrics=("shapes", "frechet"),
        judge=replace(base.judge, reference=f"{here}/{shapes_dataset.REFERENCE}"),
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


def latency(config: ReproduceConfig, model: Cell, **sampling: Any) -> Cell:
    changed = _changed(model, sampling)
    return _timing(config, model, f"latency/{_tail(model)}{_suffix(changed)}", LatencyConfig("", "", changed))


def uncached(config: ReproduceConfig, model: Cell) -> Cell:
    """The autoregressive model without its cache; in the paper's size an image takes a minute."""
    settings = LatencyConfig("", "", cached=False)
    if not is_small(config):
        settings = replace(settings, rounds=3, warm_up=1)
    return _timing(config, model, f"latency/{_tail(model)}-uncached", settings)


def _timing(config: ReproduceConfig, model: Cell, name: str, settings: LatencyConfig) -> Cell:
    """One device, one timing at a time."""
    prompt = model.config.run.prompts[0]
    settings = replace(settings, checkpoint=f"{model.config.run.output}/model", prompt=prompt, device=config.device)
    return Cell(name, settings, (model,), lock="latency")


def tokenizer_figures(config: ReproduceConfig) -> Cell:
    """Table 2, in small of the tokenizer that is shipped and of drawn images where no others are given."""
    settings, needs = replace(config.table2, output=_work(config, "tokenizers")), ()
    if is_small(config):
        settings = replace(settings, tokenizers=settings.tokenizers or (tokenizers.DEMO,))
        if settings.pictures is None:
            needs = (world(config),)
            settings = replace(settings, pictures=f"{needs[0].config.output}/{shapes_dataset.REFERENCE}")
    return Cell("tokenizers", settings, needs)


def strips(config: ReproduceConfig, model: Cell) -> Cell:
    """Figure 5, of the paper's prompts or of held-out captions."""
    prompts = FIGURE5_PROMPTS
    if is_small(config):
        prompts = tuple(scene.caption for scene in shapes.sample_held_out_scenes(4, seed=2))
    name = f"strips/{_tail(model)}"
    made = Strips(f"{model.config.run.output}/model", prompts, config.device, _work(config, name))
    return Cell(name, made, (model,))


# --- Parts ------------------------------------------------------------------------------------------------------------


def is_small(config: ReproduceConfig) -> bool:
    return config.scale == "small"


def _changed(model: Cell, sampling: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in sampling.items() if getattr(model.config.sampling, key) != value}


def _suffix(sampling: dict[str, Any]) -> str:
    return "".join(f"-{key}{value}" if key == "steps" else f"-{value}" for key, value in sampling.items())


def _tail(model: Cell) -> str:
    return model.name.removeprefix("models/")


def _work(config: ReproduceConfig, name: str) -> str:
    return str(Path(config.output).absolute() / name / WORK)


@functools.cache  # a study has dozens of them, and OmegaConf takes its time
def _preset(program: type[Program], name: str) -> Program:
    """A preset whose places are still to be filled in."""
    places: dict[type, dict[str, Any]] = {
        TrainConfig: {"data": {"path": ""}, "run": {"output": ""}},
        EvaluateConfig: {"checkpoint": "", "captions": "", "output": ""},
    }
    return preset(program, name, **places[program])
