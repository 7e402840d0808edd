from dataclasses import replace

import pytest
import torch
from torch import nn

from emage.tokenizers import DEMO, TOKENIZERS
from emage.tokenizers.vqgan import VQGAN, VQGANConfig

PARAMETERS = {
    "vqgan-f16-1024": 72_141_699,
    "vqgan-f16-16384": 76_073_859,
    "vqgan-f8-256": 67_652_783,
    "vqgan-f8-16384": 67_717_295,
    "vqgan-gumbel-f8-8192": 68_995_971,
}
GRIDS = {"vqgan-f16-1024": 16, "vqgan-f16-16384": 16, "vqgan-f8-256": 32, "vqgan-f8-16384": 32}


def tiny(**changes) -> VQGAN:
    torch.manual_seed(0)
    config = VQGANConfig(10, 4, 6, 8, (1, 2, 2), num_res_blocks=1, num_groups=4, resolution=16)
    return VQGAN(replace(config, attention_resolutions=(8,), **changes)).eval()


def on_meta(name: str) -> VQGAN:
    with torch.device("meta"):
        return VQGAN(TOKENIZERS[name].config, name)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", PARAMETERS)
def test_published_sizes(name):
    model = on_meta(name)
    assert count(model) == PARAMETERS[name]
    assert model.grid == (GRIDS.get(name, 32),) * 2
    assert model.stride * model.grid[0] == 256
    assert str(model.vocab_size) == name.rsplit("-", 1)[1]


def test_every_published_tokenizer_is_counted():
    assert set(TOKENIZERS) == {*PARAMETERS, "dvae", DEMO}  # dvae: test_dvae.py


def test_gumbel_halves():
    model = on_meta("vqgan-gumbel-f8-8192")
    assert (count(model.encoder), count(model.decoder)) == (26_345_728, 38_316_163)


def test_published_keys():
    keys = dict(on_meta("vqgan-gumbel-f8-8192").state_dict())
    assert keys["quantize.proj.weight"].shape == (8192, 256, 1, 1)
    assert keys["quantize.embed.weight"].shape == (8192, 256)
    for key in (
        "encoder.down.0.downsample.conv.weight",
        "encoder.down.2.block.0.nin_shortcut.weight",
        "encoder.down.3.attn.1.proj_out.bias",
        "encoder.mid.attn_1.norm.weight",
        "decoder.up.3.attn.2.q.weight",
        "decoder.up.3.upsample.conv.bias",
        "decoder.up.0.block.2.norm2.weight",
        "decoder.mid.block_2.conv2.weight",
        "decoder.norm_out.weight",
        "quant_conv.weight",
        "post_quant_conv.bias",
    ):
        assert key in keys
    assert not {"encoder.down.3.downsample.conv.weight", "decoder.up.0.upsample.conv.weight"} & set(keys)
    assert on_meta("vqgan-f8-16384").state_dict()["quantize.embedding.weight"].shape == (16384, 4)


@pytest.mark.parametrize("quantizer", ["nearest", "gumbel"])
@pytest.mark.parametrize("patchwise", [False, True])
def test_shapes_and_determinism(quantizer, patchwise):
    model = tiny(quantizer=quantizer, patchwise=patchwise)
    pixels = torch.rand(2, 3, 16, 24)
    ids = model.encode(pixels)
    assert ids.shape == (2, 4 * 6) and ids.dtype == torch.int64
    assert torch.equal(ids, model.encode(pixels))
    decoded = model.decode(ids, grid=(4, 6))
    assert decoded.shape == pixels.shape
    assert decoded.min() >= 0 and decoded.max() <= 1


def test_nearest_code_by_hand():
    model = tiny(vocab_size=3, code_dim=2)
    model.quantize.embedding.weight.data = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    z = torch.tensor([[0.4, 0.1], [0.6, 0.1], [0.0, 1.4], [0.0, 1.6]]).T.reshape(1, 2, 2, 2)
    assert model.quantize(z).tolist() == [[[0, 1], [0, 2]]]


def test_patchwise_ids_follow_the_patches():
    model = tiny(patchwise=True, vocab_size=200)
    patches = torch.rand(3, 3, 4, 4)
    layout = torch.tensor([[0, 1, 2, 0], [1, 1, 0, 2]])
    pixels = patches[layout].permute(2, 0, 3, 1, 4).reshape(1, 3, 8, 16)
    alone = model.encode(patches).flatten()
    assert torch.equal(model.encode(pixels).view(2, 4), alone[layout])


def test_downsampling_pads_right_and_bottom():
    downsample = tiny().encoder.down[0].downsample
    nn.init.zeros_(downsample.conv.bias)
    nn.init.ones_(downsample.conv.weight)
    x = torch.zeros(1, 8, 4, 4)
    x[0, 0, 0, 0] = x[0, 0, 3, 3] = 1.0
    assert downsample(x)[0, 0].tolist() == [[1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize("size", [(16, 18), (10, 16), (0, 16)])
def test_sizes_off_the_stride_are_rejected(size):
    with pytest.raises(ValueError, match="multiples of 4"):
        tiny().encode(torch.rand(1, 3, *size))


def test_pixels_without_a_batch_are_rejected():
    with pytest.raises(ValueError, match="batch, 3"):
        tiny().encode(torch.rand(3, 16, 16))


@pytest.mark.parametrize("bad", [-1, 10, 65535])
def test_ids_outside_the_vocabulary_are_rejected(bad):
    ids = torch.zeros(2, 16, dtype=torch.int64)
    ids[1, 7] = bad
    with pytest.raises(ValueError, match=r"0\.\.9"):
        tiny().decode(ids)


def test_ids_that_fill_no_grid_are_rejected():
    model = tiny()
    with pytest.raises(ValueError, match="grid"):
        model.decode(torch.zeros(1, 12, dtype=torch.int64))
    with pytest.raises(ValueError, match="grid"):
        model.decode(torch.zeros(1, 12, dtype=torch.int64), grid=(3, 5))
    with pytest.raises(ValueError, match="tokens"):
        model.decode(torch.zeros(16, dtype=torch.int64))
