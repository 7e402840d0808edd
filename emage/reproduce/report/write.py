"""Reports on finished studies: NAME.md, NAME.json and NAME.png of each, and findings.md of all of them."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from emage.config import ReproduceConfig
from emage.inference.pipeline import Emage
from emage.reproduce import requirements, tokenizer_comparison
from emage.reproduce.experiments import WORK, Experiment
from emage.reproduce.paper_numbers import FIGURE5, TABLE2, PaperNumbers
from emage.reproduce.recipes import WARM_START, MethodGrid, Strips
from emage.reproduce.report import charts, methods, results, tables
from emage.reproduce.report.results import Results, RowResults
from emage.reproduce.studies import METHOD_LABELS, Study, num_seeds
from emage.utils import image_grid, manifest

FILMSTRIPS, GRID = "strips.png", "methods_grid.png"


def write(config: ReproduceConfig, studies: Sequence[Study], output: Path) -> list[Path]:
    """Write the reports of studies whose experiments are finished; return the paths of the Markdown files."""
    found = [results.gather(study, output, config.scale, settings(config, study)) for study in studies]
    paths = []
    for study, one in zip(studies, found, strict=True):
        image = output / f"{study.name}.png"
        text = tables.markdown(one, image.name)
        if study.name == "table2":
            one, text = _table2(one, study, output)
            charts.rows(one, image)
        elif study.name == "figure3":
            charts.curves(_curves(study, output), image, study.title, WARM_START if config.scale == "small" else 0.0)
        elif study.name == "figure5":
            shutil.copyfile(Path(_single(study).config.output) / FILMSTRIPS, image)
        else:
            charts.rows(one, image)
        if study.name == "methods":
            text += _method_images(config, one, study, output)
        manifest.write_json(output / f"{study.name}.json", one.as_json())
        paths.append(_write_text(output / f"{study.name}.md", text))
    if len(studies) > 1:
        paths.append(_write_text(output / "findings.md", tables.all_findings(found)))
    return paths


def settings(config: ReproduceConfig, study: Study) -> dict[str, Any]:
    """Return the settings of a study's trainings, data, evaluations and timings, in words."""
    described: dict[str, Any] = {"scale": config.scale, "seeds": num_seeds(config)}
    models = [one for one in results.experiments_of(study) if one.name.startswith("models/")]
    if not models:
        return described
    first = models[0].config
    described["training"] = [
        f"{steps:,} steps of {first.optim.batch_size:,} images, {first.run.precision}"
        for steps in dict.fromkeys(model.config.optim.steps for model in models)
    ]
    if config.scale == "small":
        described["data"] = (
            f"{config.small.pictures:,} images to train on and {config.small.references:,} of held-out scenes for "
            f"reference, rendered by emage.data.shapes; tokenizer {first.data.tokenizer}"
        )
    evaluations = [experiment.config for row in study.rows for experiment in row.evaluations]
    if evaluations:
        one = evaluations[0]
        described["evaluation"] = (
            f"{one.limit:,} captions, {one.candidates} candidates each, {one.dtype}; unless the row states otherwise, "
            f"order={first.sampling.order}, {first.sampling.steps} decoding steps, {first.sampling.schedule} schedule"
        )
    timings = [row.latency.config for row in study.rows if row.latency]
    if timings:
        one = timings[0]
        described["latency"] = f"batch size one, median of {one.rounds} images after {one.warm_up}, {one.dtype}"
    return described


def _single(study: Study) -> Experiment:
    assert study.single is not None
    return study.single


# --- Studies that are not a table of rows -----------------------------------------------------------------------------


def _table2(gathered: Results, study: Study, output: Path) -> tuple[Results, str]:
    """Return the results with rows for the measured tokenizers and those of the paper, and the text of the report."""
    experiment = _single(study)
    record = results.finished(experiment, output)["figures"]
    is_fid = record["judges"]["inception"]["published"]
    rows = []
    for name in dict.fromkeys([*record["tokenizers"], *TABLE2]):
        ours = record["tokenizers"].get(name, {})
        values = {"fid" if is_fid else "frechet_inception_unpublished": ours.get("frechet")}
        values |= {key: ours.get(key) for key in ("psnr", "lpips")}
        measured = {key: [value] for key, value in values.items() if value is not None}
        rows.append(RowResults(name, name, PaperNumbers(TABLE2.get(name)), measured))
    text = tokenizer_comparison.markdown(record, f"{experiment.name}/{WORK}/{tokenizer_comparison.IMAGE_GRID}")
    chart = f"![the paper's numbers next to ours]({study.name}.png)\n"
    with_rows = Results(gathered.name, gathered.title, gathered.scale, rows, made_by=gathered.made_by)
    return with_rows, f"{text}\n{chart}"


def _curves(study: Study, output: Path) -> dict[str, list[dict[str, list[float]]]]:
    """Return the learning curve of each method's trainings, by the method's label."""
    found: dict[str, list[dict[str, list[float]]]] = {}
    for experiment in study.curves:
        curve = results.finished(experiment, output)["figures"]["curve"]
        found.setdefault(METHOD_LABELS[experiment.config.method], []).append(curve)
    return found


def _method_images(config: ReproduceConfig, found: Results, study: Study, output: Path) -> str:
    """Write the further images of the study of methods; return the lines that show them."""
    charts.curves(_curves(study, output), output / "methods_curves.png", study.title)
    charts.quality_by_cost(found, methods.by_steps(), "all_right", "decoding steps", output / "methods_steps.png")
    costs = methods.by_flops(study, requirements.tokenizer_of(config))
    unit = "GFLOP of the network per generated image"
    charts.quality_by_cost(found, costs, "all_right", unit, output / "methods_flops.png")
    shutil.copyfile(Path(_single(study).config.output) / GRID, output / GRID)
    images = {
        "methods_curves.png": "learning curves; the losses of different methods are not the same quantity",
        "methods_steps.png": "quality against decoding steps",
        "methods_flops.png": "quality against the FLOP of an image",
        GRID: "the same captions and seeds by all six methods",
    }
    return "".join(f"\n![{what}]({name})\n" for name, what in images.items())


def write_method_grid(config: MethodGrid) -> dict[str, Any]:
    """Generate the captions with each model and write methods_grid.png, a row per method."""
    images, labels = [], []
    for label, checkpoint in config.checkpoints.items():
        pipe = Emage.from_pretrained(checkpoint, device=config.device)
        images += pipe.generate(config.captions, seed=range(config.seed, config.seed + len(config.captions)))
        labels += [f"{label}: {caption}" for caption in config.captions]
    Path(config.output).mkdir(parents=True, exist_ok=True)
    image_grid.make_grid(images, labels, columns=len(config.captions)).save(Path(config.output) / GRID)
    return {"captions": list(config.captions)}


def write_filmstrips(config: Strips) -> dict[str, Any]:
    """Generate the images of Figure 5 and write strips.png: one row per prompt, the paper's decoding steps."""
    pipe = Emage.from_pretrained(config.checkpoint, device=config.device)
    steps = [list(pipe.stream(prompt, steps=config.steps)) for prompt in config.captions]
    Path(config.output).mkdir(parents=True, exist_ok=True)
    image_grid.make_filmstrips(steps, config.captions, iterations=FIGURE5).save(Path(config.output) / FILMSTRIPS)
    return {"captions": list(config.captions), "iterations": list(FIGURE5)}


def _write_text(path: Path, text: str) -> Path:
    with manifest.new_file(path) as fresh:
        fresh.write_text(text)
    return path
