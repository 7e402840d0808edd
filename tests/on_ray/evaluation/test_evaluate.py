"""An evaluation on a pool of actors: stored images, resuming, metrics and the report."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import clip_files
import pytest
from PIL import Image

from emage.config import EvaluateConfig, JudgeConfig, preset
from emage.data import shapes
from emage.evaluation import caption_list, image_shards, reference_features, scoring
from emage.evaluation.metrics import frechet
from emage.evaluation.metrics.frechet import Moments
from emage.inference.pipeline import Emage
from emage.on_ray.evaluation.driver import evaluate
from emage.utils.errors import InputError

pytestmark = pytest.mark.ray
CAPTIONS, CANDIDATES = 11, 3


@pytest.fixture(scope="module")
def settings(ray_cluster, tiny_model: Path, tmp_path_factory) -> EvaluateConfig:
    """Two actors, four shards, one CLIP ranks and another scores, 40 real images."""
    folder = tmp_path_factory.mktemp("evaluate")
    scenes = shapes.sample_held_out_scenes(CAPTIONS, 0)
    (folder / "captions.txt").write_text("".join(f"{scene.caption}\n" for scene in scenes))
    (folder / "real").mkdir()
    for i, pixels in enumerate(shapes.render_many(shapes.sample_train_scenes(40, 1), seed=1)):
        Image.fromarray(pixels).save(folder / "real" / f"{i}.png")
    ranks, judges = (clip_files.write(folder / name, seed) for seed, name in enumerate(("ranks", "judges")))
    return preset(
        EvaluateConfig,
        "tiny",
        checkpoint=str(shutil.copytree(tiny_model, folder / "model")),  # the metrics are written into it
        captions=str(folder / "captions.txt"),
        output=str(folder / "out"),
        candidates=CANDIDATES,
        limit=100,
        rank="clip",
        rank_model=ranks.model,
        rank_weights=ranks.weights,
        metrics=["frechet", "precision_recall", "clip_score", "shapes"],
        judge={
            "reference": str(folder / "real"),
            "inception": None,
            "clip_model": judges.model,
            "clip_weights": judges.weights,
        },
        num_actors=2,
        mlflow={"uri": f"sqlite:///{folder / 'mlflow.db'}", "artifacts": str(folder / "artifacts")},
    )


@pytest.fixture(scope="module")
def figures(settings: EvaluateConfig) -> dict[str, float]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_shards, "IMAGES_PER_SHARD", 9)
        return evaluate(settings)


def split(settings: EvaluateConfig) -> list[image_shards.Shard]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_shards, "IMAGES_PER_SHARD", 9)
        return image_shards.split(caption_list.read(settings.captions, 100, settings.seed), CANDIDATES)


def bytes_of(folder: Path) -> dict[str, str]:
    files = [file for file in sorted(folder.rglob("*")) if file.suffix in (".tar", ".safetensors")]
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_images_are_those_of_one_process(settings: EvaluateConfig, figures):
    """Each image follows from the checkpoint, its caption's id and its candidate's number."""
    listed = caption_list.read(settings.captions, 100, settings.seed)
    pipe = Emage.from_pretrained(settings.checkpoint, device="cpu")
    seeds = [task.seed(settings.seed) for task in listed]
    groups = pipe.candidates([t.caption for t in listed], seed=seeds, candidates=CANDIDATES, rank="none")
    rows = [
        row
        for file in sorted((Path(settings.output) / "shards").iterdir())
        for row in json.loads(file.read_text())["rows"]
    ]
    assert [row["id"] for row in rows] == [task.id for task in listed] == list(range(CAPTIONS))
    assert all(row["scores"][row["best"]] == max(row["scores"]) for row in rows)
    assert len({row["best"] for row in rows}) > 1  # it does choose
    parts = split(settings)
    assert len(parts) == 4
    for kind, places in ((image_shards.BEST, [row["best"] for row in rows]), (image_shards.FIRST, [0] * CAPTIONS)):
        kept = list(image_shards.images(Path(settings.output), kind, parts))
        drawn = [group[place][0] for group, place in zip(groups, places, strict=True)]
        assert [image.tobytes() for image in kept] == [image.tobytes() for image in drawn]


def frechet_of(settings: EvaluateConfig, real: Path, output: Path) -> float:
    """Compute the distance between the best images in `output` and all images in `real`, in this process."""
    pipe = Emage.from_pretrained(settings.checkpoint, device="cpu")
    judge = scoring.load(replace(settings, metrics=("frechet",)), pipe.tokenizer, "cpu", None)["tokenizer"]
    assert judge.extractor is not None
    images = list(image_shards.images(output, image_shards.BEST, split(settings)))
    all_of_it = JudgeConfig(reference=str(real))
    files = reference_features.check_images(all_of_it, reference_features.list_images(all_of_it, [])).files
    ours = Moments.of(judge.rows(images, [""] * len(images)))
    return frechet.distance(ours, Moments.of(reference_features.features(files, judge.extractor, 64, 40)))


def test_the_distributed_metrics_are_those_of_one_process(settings: EvaluateConfig, figures):
    alone = frechet_of(settings, Path(str(settings.judge.reference)), Path(settings.output))
    assert figures["frechet_tokenizer"] == pytest.approx(alone, rel=1e-6)
    expected = {"frechet_tokenizer", "precision_tokenizer", "recall_tokenizer", "clip_score"}
    expected |= {f"{name}_first" for name in expected}
    assert set(figures) == expected | {"objects_right", "relation_right", "all_right"}


def test_the_report_states_everything_that_the_metrics_depend_on(settings: EvaluateConfig, figures):
    output = Path(settings.output)
    record = json.loads((output / "report.json").read_text())
    assert record["figures"] == figures and record["captions"] == CAPTIONS
    made_by = record["made_by"]
    assert made_by["drawing"]["candidates"] == CANDIDATES and made_by["drawing"]["ranker"]["model"] == "clip.json"
    assert made_by["reference"]["count"] == 40 and made_by["reference"]["place"] == "real"
    assert made_by["judges"]["clip_score"]["weights_sha256"] != made_by["drawing"]["ranker"]["weights_sha256"]
    warnings = " ".join(record["warnings"])
    assert all(part in warnings for part in ("no FID", "DO NOT COMPARE", "best of several"))
    assert all((output / name).exists() for name in ("grid.png", "best.png", "worst.png"))


@pytest.mark.faults
def test_captioned_images_are_the_reference_of_the_same_generated_images(
    settings: EvaluateConfig, figures, tmp_path: Path, monkeypatch
):
    """Only the comparison is made again; the report says with which real images."""
    monkeypatch.setattr(image_shards, "IMAGES_PER_SHARD", 9)
    output = Path(shutil.copytree(settings.output, tmp_path / "out"))
    listed = caption_list.read(settings.captions, 100, settings.seed)
    names = [f"{3 * one.id}.png" for one in listed]
    captions = [replace(one, image=name) for one, name in zip(listed, names, strict=True)]
    caption_list.write(tmp_path / "list.parquet", captions)
    judge = replace(settings.judge, reference_images="captioned")
    again = replace(settings, captions=str(tmp_path / "list.parquet"), judge=judge, output=str(output))
    values = evaluate(replace(again, metrics=("frechet",)))
    reference = json.loads((output / "report.json").read_text())["made_by"]["reference"]
    assert reference["images"] == "captioned" and reference["count"] == CAPTIONS
    assert f"{CAPTIONS} images against {CAPTIONS} captioned images of real" in (output / "report.md").read_text()
    (few := tmp_path / "few").mkdir()
    for name in names:
        shutil.copy(Path(str(settings.judge.reference)) / name, few / name)
    assert values["frechet_tokenizer"] == pytest.approx(frechet_of(again, few, output), rel=1e-6)
    assert values["frechet_tokenizer"] != pytest.approx(figures["frechet_tokenizer"], rel=1e-5)


@pytest.mark.faults
def test_existing_shards_are_not_generated_again_and_the_list_can_be_reused(
    settings: EvaluateConfig, figures, monkeypatch
):
    monkeypatch.setattr(image_shards, "IMAGES_PER_SHARD", 9)
    output = Path(settings.output)
    before = {file: file.stat().st_mtime_ns for file in output.rglob("*.tar")}
    (output / "first" / "000002.tar").unlink()  # one shard is damaged
    expected = bytes_of(output)
    again = evaluate(replace(settings, captions=str(output / "captions.parquet"), num_actors=1))
    assert again == figures
    after = {file: file.stat().st_mtime_ns for file in output.rglob("*.tar")}
    assert {file.name for file in after if before[file] != after[file]} == {"000002.tar"}
    assert {name: digest for name, digest in bytes_of(output).items() if name in expected} == expected


def test_another_run_in_the_same_output_is_rejected(settings: EvaluateConfig, figures):
    before = bytes_of(Path(settings.output))
    with pytest.raises(InputError, match=r"already holds a run with drawing.seed=0 \(now 1\)"):
        evaluate(replace(settings, seed=1))
    with pytest.raises(InputError, match="a CLIP cannot score what it ranked"):
        same = replace(settings.judge, clip_model=settings.rank_model, clip_weights=settings.rank_weights)
        evaluate(replace(settings, judge=same))
    assert bytes_of(Path(settings.output)) == before


def test_the_run_is_a_child_of_the_training_run(settings: EvaluateConfig, figures):
    from mlflow import MlflowClient

    client = MlflowClient(settings.mlflow.uri)
    (run, *_) = client.search_runs([client.get_experiment_by_name("emage").experiment_id], order_by=["start_time"])
    assert run.data.metrics["frechet_tokenizer"] == figures["frechet_tokenizer"]
    assert run.data.metrics["pictures_per_second"] > 0
    artifacts = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"grid.png", "best.png", "worst.png", "report.json", "report.md", "captions.parquet"} <= artifacts
