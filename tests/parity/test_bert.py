"""BERT against transformers' own, from the same folder."""

from pathlib import Path

import pytest
import torch
from bert_files import write_bert
from transformers import BertModel, BertTokenizer

from emage.config import ModelConfig
from emage.model.text import load_published
from emage.model.text.bert import BertText

CAPTIONS = [
    "A red circle",
    "",
    "the CAFÉ, the café! a  cafe\t\n",
    "猫 a猫red é ee 🙂 \u200b\x07 cafes",
    "circles " * 60,
    "a " * 75,
    "a " * 76,
    "a [SEP] red [PAD] circle",
    "e" * 150,
]


@pytest.mark.parametrize("form", ["bin", "safetensors"])
@torch.no_grad()
def test_ids_and_states_are_transformers(form: str, tmp_path: Path):
    write_bert(tmp_path / "bert", form)
    encoder = BertText(ModelConfig(text="bert_tiny")).eval()
    load_published(encoder, ModelConfig(text="bert_tiny", text_weights=str(tmp_path / "bert")))
    tokenizer = BertTokenizer.from_pretrained(tmp_path / "bert", split_special_tokens=True)
    peer = BertModel.from_pretrained(tmp_path / "bert").eval()
    batch = tokenizer(CAPTIONS, padding="max_length", truncation=True, max_length=77, return_tensors="pt")
    ids, cut = encoder.tokenize(CAPTIONS)
    assert torch.equal(ids, batch["input_ids"])
    assert cut.tolist() == [len(tokenizer(caption)["input_ids"]) > 77 for caption in CAPTIONS]
    states = peer(**batch).last_hidden_state  # (B,S,D)
    assert (encoder(ids) - states).abs().max() < 1e-5
