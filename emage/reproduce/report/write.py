"""What is written when all cells of a study are there: NAME.md, NAME.json and NAME.png, and the findings of all."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from emage.config import ReproduceConfig
from emage.inference.pipeline import Emage
from emage.reproduce import experiments, tokenizer_comparison
from emage.reproduce.experiments import WORK
from emage.reproduce.paper_numbers import FIGURE5, TABLE2, Known
from emage.reproduce.recipes import WARM_START, Strips
from emage.reproduce.report import charts, results, tables
from emage.reproduce.report.results import Found, Results
from emage.reproduce.studies import NAMES, Study, num_seeds
from emage.utils import image_grid, manifest

STRIPS = "strips.png"


def write(config: ReproduceConfig, studies: Sequence[Study], output: Path) -> list[Path]:
    """The reports' paths. The studies' cells must be finished."""
    found = [results.gather(study, output, config.scale, settings(config, study)) for study in studies]
    paths = []
    for study, one in zip(studies, found, strict=True):
        image = output / f"{study.name}.png"
        text = tables.markdown(one, image.name)
        if study.name == "table2":
            one, text = _table2(one, study, output)
            charts.rows(one, image)
        elif study.name == "figure3":
            charts.curves(_runs(study), image, study.title, WARM_START if config.scale == "small" else 0.0)
        elif study.name == "figure5":
            shutil.copyfile(Path(_single(study).config.output) / STRIPS, image)
        else:
            charts.rows(one, image)
        manifest.write_json(output / f"{study.name}.json", one.as_json())
        paths.append(_write_text(output / f"{study.name}.md", text))
    if len(studies) > 1:
        paths.append(_write_text(output / "findings.md", tables.all_findings(found)))
    return paths


def settings(config: ReproduceConfig, study: Study) -> dict[str, Any]:
    """What made a study, in words."""
    told: dict[str, Any] = {"scale": config.scale, "seeds": num_seeds(config)}
    models = [cell for cell in results.cells_of(study) if cell.name.startswith("models/")]
    if not models:
        return told
    first = models[0].config
    told["training"] = [
        f"{steps:,} steps of {first.optim.batch_size:,} images, {first.run.precision}"
        for steps in dict.fromkeys(model.config.optim.steps for model in models)
    ]
    if config.scale == "small":
        told["data"] = (
            f"{config.small.pictures:,} images to train on and {config.small.references:,} of held-out scenes for "
            f"reference, drawn by emage.data.shapes; tokenizer {first.data.tokenizer}"
        )
    rated = [cell.config for row in study.rows for cell in row.evaluations]
    if rated:
        told["evaluation"] = (
            f"{rated[0].limit:,} captions, {rated[0].candidates} candidates each, {rated[0].dtype}; drawn with "
            f"order={first.sampling.order}, {first.sampling.steps} iterations, {first.sampling.schedule}, where no row "
            "says otherwise"
        )
    timed = [row.latency.config for row in study.rows if row.latency]
    if timed:
        told["latency"] = f"batch one, median of {timed[0].rounds} images after {timed[0].warm_up}, {timed[0].dtype}"
    return told


def _single(study: Study) -> experiments.Cell:
    assert study.single is not None
    return study.single


# --- Studies that are no table of rows --------------------------------------------------------------------------------


def _table2(found: Results, study: Study, output: Path) -> tuple[Results, str]:
    """With rows: the tokenizers that were measured, and those that the paper measured."""
    cell = _single(study)
    finished = experiments.result(cell, output)
    assert finished is not None
    record = finished["figures"]
    is_fid = record["judges"]["inception"]["published"]
    rows = []
    for name in dict.fromkeys([*record["tokenizers"], *TABLE2]):
        ours = record["tokenizers"].get(name, {})
        figures = {"fid" if is_fid else "frechet_inception_unpublished": ours.get("frechet")}
        figures |= {key: ours.get(key) for key in ("psnr", "lpips")}
        known = {key: [value] for key, value in figures.items() if value is not None}
        rows.append(Found(name, name, Known(TABLE2.get(name)), known))
    text = tokenizer_comparison.markdown(record, f"{cell.name}/{WORK}/{tokenizer_comparison.SHEET}")
    chart = f"![the paper's figures beside ours]({study.name}.png)\n"
    return Results(found.name, found.title, found.scale, rows, made_by=found.made_by), f"{text}\n{chart}"


def _runs(study: Study) -> dict[str, list[Path]]:
    """The records of each method's trainings, by its label."""
    runs: dict[str, list[Path]] = {}
    for cell in study.curves:
        runs.setdefault(NAMES[cell.config.method], []).append(Path(cell.config.run.output) / "steps.jsonl")
    return runs


def draw_strips(config: Strips) -> dict[str, Any]:
    """Figure 5: the iterations that the paper shows, one row a prompt."""
    pipe = Emage.from_pretrained(config.checkpoint, device=config.device)
    frames = [list(pipe.stream(prompt, steps=config.steps)) for prompt in config.captions]
    Path(config.output).mkdir(parents=True, exist_ok=True)
    image_grid.strips(frames, config.captions, iterations=FIGURE5).save(Path(config.output) / STRIPS)
    return {"captions": list(config.captions), "iterations": list(FIGURE5)}


def _write_text(path: Path, text: str) -> Path:
    with manifest.new_file(path) as fresh:
        fresh.write_text(text)
    return path
