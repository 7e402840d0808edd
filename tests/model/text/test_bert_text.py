"""BERT: its vocabulary, padding and published formats; a state dict holds weights and vocabulary."""

import copy
import json
from pathlib import Path

import pytest
import torch
from bert_files import WORDS, write_bert
from local_hub import LocalHub

from emage import tokenizers
from emage.config import CheckpointConfig, ModelConfig, SamplingConfig
from emage.model import checkpoint
from emage.model.text import load_published
from emage.model.text.bert import PUBLISHED, REVISION, BertText, published
from emage.utils.errors import InputError

CONFIG = ModelConfig(text="bert_tiny", text_length=8)
CAPTION, IDS = "A Red circles", [2, 5, 6, 7, 8, 3, 0, 0]  # [CLS] a red circle ##s [SEP] [PAD] [PAD]


def bert(length: int = 8) -> BertText:
    torch.manual_seed(9)
    return BertText(ModelConfig(text="bert_tiny", text_length=length)).eval()


def loaded(folder: Path, length: int = 8) -> BertText:
    encoder = bert(length)
    load_published(encoder, ModelConfig(text="bert_tiny", text_length=length, text_weights=str(folder)))
    return encoder


def test_the_base_size_is_bert_base():
    with torch.device("meta"):
        base = BertText(ModelConfig(text="bert_base"))
    assert sum(p.numel() for p in base.parameters()) == 108_891_648  # 109,482,240 published, less the pooler
    assert (base.width, base.length, base.tower.config.num_hidden_layers) == (768, 77, 12)


def test_the_published_weights_are_those_of_one_commit(tmp_path, hub: LocalHub):
    """What the hub's branch holds later is not loaded."""
    write_bert(tmp_path / "known", "safetensors", seed=1)
    write_bert(tmp_path / "later", "safetensors", seed=2)
    for branch, name in ((REVISION, "known"), ("main", "later")):
        files = {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()}
        hub.commit(PUBLISHED, branch, files)
    _, _, words, weights = published(None)
    asked = [path for _, path in hub.requests if PUBLISHED in path]
    expected = published(str(tmp_path / "known"))[3]
    assert asked and all(REVISION in path for path in asked)
    assert words == WORDS and weights.keys() == expected.keys()
    assert all(torch.equal(weights[key], expected[key]) for key in expected)


def test_without_a_published_vocabulary_a_token_is_a_character():
    ids, _ = bert().tokenize(["AB c!"])
    words = bert()._words
    assert [words[i] for i in ids[0]] == ["[CLS]", "a", "##b", "c", "!", "[SEP]", "[PAD]", "[PAD]"]


@pytest.mark.parametrize("special", ["[SEP]", "[PAD]", "[CLS]", "[MASK]", "[UNK]"])
def test_special_words_in_a_caption_are_plain_text(special: str):
    encoder = bert(12)
    read = encoder.tokenize([f"a {special} b", f"{special}", f"b{special}"])[0]
    plain = encoder.tokenize([f"a {special.lower()} b", f"{special.lower()}", f"b{special.lower()}"])[0]
    assert torch.equal(read, plain)
    words = [[encoder._words[i] for i in row] for row in read]
    letters = list(special[1:-1].lower())
    spelled = ["[", letters[0], *("##" + letter for letter in letters[1:]), "]"]
    assert words[0][: len(spelled) + 4] == ["[CLS]", "a", *spelled, "b", "[SEP]"]
    assert words[1][: len(spelled) + 2] == ["[CLS]", *spelled, "[SEP]"]
    assert words[2][: len(spelled) + 3] == ["[CLS]", "b", *spelled, "[SEP]"]


def test_special_words_stay_plain_after_a_load(tmp_path: Path):
    write_bert(tmp_path / "bert", "bin")
    ids, _ = loaded(tmp_path / "bert").tokenize(["a [SEP] red"])
    assert [WORDS[i] for i in ids[0]] == ["[CLS]", "a", "[", "sep", "]", "red", "[SEP]", "[PAD]"]


@pytest.mark.parametrize("form", ["bin", "safetensors"])
def test_published_forms_load(form: str, tmp_path: Path):
    published = write_bert(tmp_path / "bert", form)
    encoder = loaded(tmp_path / "bert")
    assert encoder.tokenize([CAPTION])[0].tolist() == [IDS]
    theirs = published.bert.state_dict()
    mine = encoder.tower.state_dict()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine) and len(mine) == len(theirs) - 2  # no pooler


def test_words_of_tokenizer_json(tmp_path: Path):
    write_bert(tmp_path / "bert", "bin")
    (tmp_path / "bert" / "vocab.txt").unlink()
    shuffled = {word: i for i, word in reversed(list(enumerate(WORDS)))}
    (tmp_path / "bert" / "tokenizer.json").write_text(json.dumps({"model": {"vocab": shuffled}}))
    assert loaded(tmp_path / "bert").tokenize([CAPTION])[0].tolist() == [IDS]


def test_padding_changes_no_state(tmp_path: Path):
    write_bert(tmp_path / "bert", "bin")
    short, long = loaded(tmp_path / "bert", 8), loaded(tmp_path / "bert", 16)
    assert torch.allclose(
        short(short.tokenize([CAPTION])[0])[0, :6], long(long.tokenize([CAPTION])[0])[0, :6], atol=1e-6
    )


def test_it_reads_in_both_directions():
    encoder = bert()
    states = encoder(encoder.tokenize(["a b c", "a b d"])[0])
    assert not torch.allclose(states[0, 1], states[1, 1], atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_state_dict_holds_the_vocabulary(dtype: torch.dtype, tmp_path: Path):
    write_bert(tmp_path / "bert", "safetensors")
    fresh = bert()
    state = loaded(tmp_path / "bert").state_dict()
    fresh.load_state_dict({key: value.to(dtype) for key, value in state.items()})
    assert fresh.tokenize([CAPTION])[0].tolist() == [IDS]
    assert state["_extra_state"].dtype == torch.uint8
    assert copy.deepcopy(fresh).tokenize([CAPTION])[0].tolist() == [IDS]


def test_a_checkpoint_needs_no_other_file(tmp_path: Path):
    write_bert(tmp_path / "bert", "bin")
    model = ModelConfig(width=32, depth=1, num_heads=2, text="bert_tiny", text_length=8, text_weights="gone")
    config = CheckpointConfig("iterative1", 512, (8, 8), model, SamplingConfig(steps=2))
    network = checkpoint.build(config)
    network.text = loaded(tmp_path / "bert")
    checkpoint.save(tmp_path / "model", network, tokenizers.load(tokenizers.DEMO), config, {"step": 0})
    again, *_ = checkpoint.load(tmp_path / "model")
    ids, _ = again.text.tokenize([CAPTION])
    assert ids.tolist() == [IDS] and torch.equal(again.text(ids), network.text(ids))


# --- What is refused --------------------------------------------------------------------------------------------------


class Hostile:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_that_runs_code_is_rejected_and_not_run(tmp_path: Path):
    write_bert(tmp_path / "bert", "bin")
    torch.save({"bert.embeddings": Hostile(tmp_path / "touched")}, tmp_path / "bert" / "pytorch_model.bin")
    with pytest.raises(InputError, match="no BERT weights") as error:
        loaded(tmp_path / "bert")
    assert "\n" not in str(error.value) and not (tmp_path / "touched").exists()


DAMAGES = {
    "config.json is missing": lambda folder: (folder / "config.json").unlink(),
    "config.json is no json": lambda folder: (folder / "config.json").write_text("hello"),
    "config.json of no model": lambda folder: (folder / "config.json").write_text("[]"),
    "vocab.txt is missing": lambda folder: (folder / "vocab.txt").unlink(),
    "vocab.txt is no text": lambda folder: (folder / "vocab.txt").write_bytes(b"\xff\xfe\xfd"),
    "weights are missing": lambda folder: (folder / "pytorch_model.bin").unlink(),
    "weights are empty": lambda folder: (folder / "pytorch_model.bin").write_bytes(b""),
    "weights are text": lambda folder: (folder / "pytorch_model.bin").write_bytes(b"hello"),
    "weights are truncated": lambda folder: (folder / "pytorch_model.bin").write_bytes(
        (folder / "pytorch_model.bin").read_bytes()[:1000]
    ),
    "safetensors are text": lambda folder: (folder / "model.safetensors").write_bytes(b"hello"),
}


@pytest.mark.parametrize("what", list(DAMAGES))
def test_damaged_folders_are_one_line_with_the_source_of_the_files(what: str, tmp_path: Path):
    write_bert(tmp_path / "bert", "bin")
    DAMAGES[what](tmp_path / "bert")
    with pytest.raises(InputError) as error:
        loaded(tmp_path / "bert")
    line = str(error.value)
    assert line.startswith(f"no BERT weights in {tmp_path / 'bert'} (") and "\n" not in line
    assert "weights_only" not in line  # torch's advice to load unsafely
    assert "config.json, vocab.txt, model.safetensors of https://" in line and "model.text_weights=FOLDER" in line


@pytest.mark.parametrize(
    ("config", "words", "message"),
    [
        ({"num_hidden_layers": 3}, WORDS, "its config.json has num_hidden_layers 3, not 4"),
        ({"hidden_act": "relu"}, WORDS, "its config.json has hidden_act 'relu', not 'gelu'"),
        ({}, WORDS[1:], "does not hold the vocabulary of bert_tiny"),
        ({}, ["[PAD]", "a"], "does not hold the vocabulary of bert_tiny"),
        ({}, [*WORDS, "a"], "does not hold the vocabulary of bert_tiny"),
        ({}, WORDS + [str(i) for i in range(200)], "does not hold the vocabulary of bert_tiny"),
    ],
)
def test_other_models_are_one_line(config: dict, words: list[str], message: str, tmp_path: Path):
    write_bert(tmp_path / "bert", "bin", **config)
    (tmp_path / "bert" / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    with pytest.raises(InputError, match=message) as error:
        loaded(tmp_path / "bert")
    assert "\n" not in str(error.value)


def test_weights_that_lack_one_are_one_line(tmp_path: Path):
    write_bert(tmp_path / "bert", "bin")
    file = tmp_path / "bert" / "pytorch_model.bin"
    weights = torch.load(file, weights_only=True)
    del weights["bert.encoder.layer.2.output.LayerNorm.gamma"]
    torch.save(weights, file)
    with pytest.raises(InputError, match=r"see encoder.layer.2.output.LayerNorm.weight$"):
        loaded(tmp_path / "bert")


def test_without_network_and_folder_the_error_lists_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with torch.device("meta"):
        base = BertText(ModelConfig(text="bert_base"))
    with pytest.raises(InputError, match="no BERT weights in google-bert/bert-base-uncased") as error:
        load_published(base, ModelConfig(text="bert_base"))
    assert "\n" not in str(error.value) and "model.text_weights=FOLDER" in str(error.value)


@pytest.mark.parametrize("length", [1, 513])
def test_positions_that_bert_does_not_have(length: int):
    with pytest.raises(ValueError, match=f"model.text_length={length}"):
        bert(length)
