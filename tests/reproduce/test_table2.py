"""Table 2: its metrics for a tokenizer whose values can be computed by hand, its settings, its report."""

import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from emage import tokenizers
from emage.config import Table2Config
from emage.data.images import image_files
from emage.evaluation.metrics.reconstruction import MetricNetworks
from emage.reproduce import tokenizer_comparison as table2
from emage.reproduce.paper_numbers import TABLE2
from emage.tokenizers import DEMO, Published, weights_cache
from emage.tokenizers.vqgan import VQGAN, VQGANConfig
from emage.utils.errors import InputError


@pytest.fixture
def greys(tmp_path, monkeypatch) -> Path:
    """A folder of four flat images, black, black, grey and white; an empty cache of weights."""
    monkeypatch.setenv("EMAGE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, grey in enumerate((0, 0, 100, 255)):
        Image.new("RGB", (64, 64), (grey,) * 3).save(folder / f"{i}.png")
    return folder


class Steps:
    """Four greys, 0, 85, 170 and 255, in a grid of 2 x 2 tokens of 32 px; 100 becomes 85.

    They come out a little too dark, by less than rounding corrects.
    """

    name, sha256, vocab_size, grid = "steps", "none", 4, (2, 2)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return (3 * pixels[:, 0, ::32, ::32]).round().long().flatten(1)

    def decode(self, ids: torch.Tensor) -> torch.Tensor:
        grey = (ids.view(-1, 1, 2, 2).float() / 3 - 0.4 / 255).clamp(0)
        return grey.repeat_interleave(32, 2).repeat_interleave(32, 3).expand(-1, 3, -1, -1)


class Brightness:
    """A feature extractor with one feature."""

    width = 1

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.float().mean((1, 2, 3))[:, None]


def test_metrics_by_hand(greys):
    networks = MetricNetworks(Brightness(), lambda a, b: torch.arange(len(a)).float(), {})
    files = image_files.find(str(greys)).files
    figures, shown = table2.measure(Steps(), files, networks, batch_size=3, device="cpu")
    copy, changed = 10 * math.log10(255**2 * 12), 10 * math.log10(255**2 / 15**2)
    assert figures["psnr"] == pytest.approx((3 * copy + changed) / 4)
    assert figures["lpips"] == pytest.approx((0 + 1 + 2 + 0) / 4)
    assert figures["live_codes"] == 3 and figures["vocabulary"] == 4 and figures["length"] == 4
    assert figures["code_bits"] == pytest.approx(1.5)  # frequencies 1/2, 1/4, 1/4
    # Of one feature: the difference of the means squared, and of the standard deviations.
    real, fake = (torch.tensor([0, 0, grey, 255]).double() for grey in (100, 85))
    expected = (real.mean() - fake.mean()) ** 2 + (real.std() - fake.std()) ** 2
    assert figures["frechet"] == pytest.approx(float(expected))
    assert [a.getpixel((5, 5)) for a, _ in shown] == [(grey,) * 3 for grey in (0, 0, 100, 255)]
    assert [b.getpixel((60, 60)) for _, b in shown] == [(grey,) * 3 for grey in (0, 0, 85, 255)]


def test_without_networks_their_metrics_are_missing(greys):
    files = image_files.find(str(greys)).files
    figures, _ = table2.measure(Steps(), files, MetricNetworks(None, None, {}), batch_size=4, device="cpu")
    assert figures["frechet"] is None and figures["lpips"] is None and figures["psnr"] > 0


def test_a_run_writes_its_record_and_images(greys, tmp_path, capsys):
    output = tmp_path / "out"
    named = (DEMO, "vqgan-f8-256")
    record = table2.run(Table2Config(str(greys), named, device="cpu", limit=3, output=str(output)))
    printed = capsys.readouterr().out
    row = next(line for line in printed.splitlines() if DEMO in line)
    assert json.loads((output / "record.json").read_text())["tokenizers"] == record["tokenizers"]
    figures = record["tokenizers"][DEMO]
    assert f"{figures['psnr']:.2f}" in row
    assert record["pictures"]["count"] == 3 and tuple(record["settings"]["tokenizers"]) == named
    assert figures["weights_sha256"] == tokenizers.load(DEMO).sha256
    for text in (printed, table2.markdown(record, "sheet.png")):
        assert "skipped vqgan-f8-256: fetch https://" in text and "table2.weights.vqgan-f8-256=FILE" in text
        assert (
            "no Frechet: the weights of its network are not available; fetch https://" in text
            and "table2.inception" in text
        )
        assert (
            "no LPIPS: the weights of its network are not available; fetch https://" in text and "table2.lpips" in text
        )
    with Image.open(output / "sheet.png") as sheet:
        assert sheet.width == 3 * (128 + 16) and sheet.height > 2 * (128 + 16)  # originals, and the demo's below them


def test_a_named_file_and_the_cache_are_found(greys, tmp_path, monkeypatch):
    tiny = VQGANConfig(vocab_size=8, code_dim=4, z_channels=4, channels=8, channel_mult=(1, 1), num_groups=4)
    monkeypatch.setitem(tokenizers.TOKENIZERS, "tiny", Published(tiny, {"last.ckpt": "http://unused/last.ckpt"}))
    checkpoint = tmp_path / "model.ckpt"
    torch.save({"state_dict": VQGAN(tiny).state_dict()}, checkpoint)
    found, skipped = table2.load_available(Table2Config(str(greys), weights={"tiny": str(checkpoint)}))
    assert set(found) == {"tiny"} and set(skipped) == set(TABLE2)
    cached = weights_cache.cache_folder() / "tiny.safetensors"
    cached.parent.mkdir(parents=True, exist_ok=True)
    tokenizers.save(found["tiny"], cached)
    found, _ = table2.load_available(Table2Config(str(greys), tokenizers=("tiny", "dvae")))
    assert set(found) == {"tiny"}


def test_a_dead_link_does_not_stop_the_other_tokenizers(greys, monkeypatch):
    monkeypatch.setenv(weights_cache.TRUST_VARIABLE, "1")
    monkeypatch.setitem(
        tokenizers.TOKENIZERS, "tiny", Published(VQGANConfig(), {"last.ckpt": "http://127.0.0.1:9/last.ckpt"})
    )
    found, skipped = table2.load_available(Table2Config(str(greys), ("tiny", DEMO), fetch=True))
    assert set(found) == {DEMO} and "table2.weights.tiny=FILE takes a file" in skipped["tiny"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pictures": "nowhere", "tokenizers": (DEMO,)}, "nowhere: no such folder"),
        ({"pictures": None, "tokenizers": (DEMO,)}, r"table2\.pictures is required"),
        ({}, "the weights of no tokenizer are available"),
        ({"tokenizers": ("vqgan-f8-265",)}, "did you mean vqgan-f8-256"),
        ({"weights": {"vqgan-f8-256": "nowhere.ckpt"}}, "nowhere.ckpt does not exist"),
        ({"tokenizers": (DEMO,), "inception": "nowhere.pth"}, "nowhere.pth: no such file"),
        ({"batch_size": 0}, r"table2\.batch_size=0: must be a whole number of at least 1"),
        ({"limit": 0}, r"table2\.limit=0: must be a whole number of at least 1"),
    ],
)
def test_bad_input(greys, settings, message, tmp_path):
    config = Table2Config(**{"pictures": str(greys), "device": "cpu", "output": str(tmp_path / "out"), **settings})
    with pytest.raises(InputError, match=message) as caught:
        table2.run(config)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_the_urls_of_published_weights_are_printed(greys, capsys):
    with pytest.raises(InputError):
        table2.run(Table2Config(str(greys), device="cpu"))
    assert "skipped vqgan-f8-256: fetch https://" in capsys.readouterr().err


def test_few_images_and_other_networks_are_marked():
    figures = dict.fromkeys(("length", "vocabulary", "live_codes"), 1) | dict.fromkeys(
        ("frechet", "psnr", "lpips", "code_bits", "pictures_per_second"), 1.0
    )
    judge = {"sha256": "0", "published": False, "missing": None}
    record = {
        "pictures": {"count": 2_047, "refused": {}},
        "judges": {"inception": judge, "lpips": judge | {"published": True}},
        "tokenizers": {"dvae": figures | {"paper": 36.23}},
        "skipped": {},
    }
    assert table2.table_rows(record)[0][3:5] == ["1.00*", "36.23"]
    assert [line.split(":")[0] for line in table2.notes(record)] == [
        "2047 images, as ingest keeps them (JPEG)",
        "Frechet IS MEANINGLESS",
        "* DO NOT COMPARE",
    ]
    record["pictures"]["count"] = 2_048
    assert table2.table_rows(record)[0][3] == "1.00" and len(table2.notes(record)) == 2
