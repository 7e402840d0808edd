"""A stranger's checkpoint: it reads nothing of this machine, takes no memory before it fits, and writes no markup."""

import itertools
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from changed_checkpoints import change_config, change_tokenizer, edit_manifest, load_error, seal
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from emage.inference.pipeline import Emage
from emage.model import model_card
from emage.utils import manifest

SECRET = "e7b1-the-value-of-a-variable"


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY_OF_MINE", SECRET)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("text_weights: null", "text_weights: ${oc.env:A_KEY_OF_MINE}"),
        ("text_weights: null", 'text_weights: "x ${oc.env:A_KEY_OF_MINE} y"'),
        ("mlp: geglu", "mlp: ${oc.env:A_KEY_OF_MINE}"),
        ("text_weights: null", "text_weights: ${oc.decode:${oc.env:A_KEY_OF_MINE}}"),
        ("text_weights: null", "text_weights: ${method}"),
        ("mlp: geglu", "${oc.env:A_KEY_OF_MINE}: geglu"),
    ],
)
def test_a_config_cannot_read_the_environment(folder: Path, old: str, new: str) -> None:
    change_config(folder, old, new)
    line = load_error(folder)
    assert "references in files are not resolved" in line and SECRET not in line


def test_a_tokenizers_description_cannot_read_the_environment(folder: Path) -> None:
    change_tokenizer(folder, lambda it: it | {"vqgan": it["vqgan"] | {"quantizer": "${oc.env:A_KEY_OF_MINE}"}})
    line = load_error(folder)
    assert "references in files are not resolved" in line and SECRET not in line


@pytest.mark.parametrize("name", ["", "a\nb", "\x1b[31mred", "n" * 200, 3, None])
def test_a_tokenizers_name_is_a_short_text(folder: Path, name: Any) -> None:
    change_tokenizer(folder, lambda it: it | {"name": name})
    assert "holds no tokenizer" in load_error(folder)


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [1, 2]\nb: *a\n",
        "method: !!python/name:os.system\n",
        "method: 2026-01-01\nmethod: iterative3\n",
        "method: !!set {a}\n",
        "[" * 10_000,
        "method: iterative3\n" + "#" * 200_000,
    ],
    ids=["an alias", "a tag", "a key twice", "a set", "deep", "200 kB"],
)
def test_a_config_is_plain_and_small(folder: Path, text: str) -> None:
    (folder / "config.yaml").write_text(text)
    seal(folder)
    assert "config.yaml: " in load_error(folder)


def test_a_manifest_is_small_and_a_regular_file(folder: Path) -> None:
    (folder / manifest.NAME).write_text(json.dumps({"files": {}, "git": "a" * 2_000_000}))
    assert "is not a checkpoint folder" in load_error(folder)
    (folder / manifest.NAME).unlink()
    (folder / manifest.NAME).symlink_to("/dev/zero")
    assert "is not a checkpoint folder" in load_error(folder)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("depth: 2", "depth: 4000"),
        ("width: 64", "width: 4000000"),
        ("vocab_size: 512", "vocab_size: 2000000000"),
        ("text: clip_tiny", "text: clip_l14"),
        ("grid:\n- 8\n- 8", "grid:\n- 40000000\n- 40000000"),
    ],
)
def test_a_network_that_does_not_fit_takes_no_memory(folder: Path, old: str, new: str) -> None:
    change_config(folder, old, new)
    tracemalloc.start()
    try:
        line, (_, peak) = load_error(folder), tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "is a damaged checkpoint" in line
    assert peak < 50e6  # bytes of Python's objects: the modules of 4,000 layers are not made either


@pytest.mark.parametrize("values", [{"channels": 2_000_000}, {"num_res_blocks": 100_000}, {"vocab_size": 10**10}])
def test_a_tokenizer_that_does_not_fit_takes_no_memory(folder: Path, values: dict[str, int]) -> None:
    change_tokenizer(folder, lambda it: it | {"vqgan": it["vqgan"] | values})
    assert "the weights do not fit" in load_error(folder)


EVIL = "<script>alert(1)</script> [here](https://evil.example) `a` | b\n\n# injected\n![x](https://evil.example/x.png)"


def test_a_manifest_writes_no_markup_into_a_model_card(folder: Path, tmp_path: Path) -> None:
    def poison(record: dict[str, Any]) -> None:
        settings = {EVIL: EVIL, "fence": "```\n# injected\n```"}
        score = {"figures": {EVIL: 1.0, "fid": 2.0}, "captions": 3, "file": EVIL, "settings": settings}
        record.update(
            git=EVIL, license=EVIL, prompts=[EVIL], metrics={EVIL: 1.0}, settings=settings, scores={"a": score}
        )
        record["data"] = {"path": "x/" + EVIL.replace("/", ""), "rows": 5, "fingerprint": EVIL}

    edit_manifest(folder, poison)
    pipe = Emage.from_pretrained(folder, device="cpu")
    pipe.save_pretrained(tmp_path / "mine", prompts=[])
    pipe.metadata["prompts"] = [EVIL]
    model_card.add_scores(
        tmp_path / "mine", pipe, {"figures": {EVIL: 3.0}, "captions": 1, "file": EVIL, "settings": {}}
    )
    content = ModelCard((tmp_path / "mine" / model_card.NAME).read_text())
    assert content.data.license == " ".join(EVIL.split())
    assert "injected" in content.text  # all of it is shown, but inside code
    kinds, addresses, headings = _markup(content.text)
    assert not kinds & {"html_block", "html_inline", "image"}
    assert addresses == {"https://arxiv.org/abs/2312.14988"}
    assert headings == ["Emage, iterative3", "Use", "Model", "Training", "Scores", "Limits", "Citation"]


def _markup(text: str) -> tuple[set[str], set[object], list[str]]:
    """Return the kinds of markup in a Markdown text, its links, and its headings."""
    blocks = MarkdownIt("commonmark").enable("table").parse(text)
    inline = [child for block in blocks for child in block.children or ()]
    headings = [after.content for block, after in itertools.pairwise(blocks) if block.type == "heading_open"]
    links = {child.attrs["href"] for child in inline if child.type == "link_open"}
    return {token.type for token in (*blocks, *inline)}, links, headings
