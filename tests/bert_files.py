"""A small BERT in its published form: a folder with config, vocabulary and all weights, heads included."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertForPreTraining

from emage.model.text.bert import SIZES, SPECIAL

# Five special tokens, then: a 5, red 6, circle 7, ##s 8, ...
WORDS = [*SPECIAL, "a", "red", "circle", "##s", "cafe", "the", "!", "##é", "é", "e", "##e", "猫", "[", "]", "sep"]


def write_bert(folder: Path, form: str, seed: int = 0, **config) -> BertForPreTraining:
    """Write the files of bert_tiny: `bin` with the names of 2018 (gamma, beta), `safetensors` with today's."""
    width, heads, layers, vocab_size = SIZES["bert_tiny"]
    sizes = {"hidden_size": width, "num_attention_heads": heads, "num_hidden_layers": layers, "vocab_size": vocab_size}
    torch.manual_seed(seed)
    model = BertForPreTraining(BertConfig(**{**sizes, "intermediate_size": 4 * width, **config})).eval()
    for name, parameter in model.named_parameters():
        if "LayerNorm" in name:  # as after training: ones and zeros would hide mixed-up names
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    folder.mkdir(exist_ok=True)
    model.config.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    if form == "bin":
        old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
        for new, name in old.items():
            weights = {key.replace(new, name): value for key, value in weights.items()}
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        save_file(weights, folder / "model.safetensors")
    return model
