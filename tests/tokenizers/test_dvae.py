import pytest
import torch
from torch import nn

from emage.tokenizers import TOKENIZERS
from emage.tokenizers.dvae import DVAE, Block, Conv2d, DVAEConfig


def published() -> DVAE:
    with torch.device("meta"):
        return DVAE(TOKENIZERS["dvae"].config)


def test_published_size():
    model = published()
    assert sum(p.numel() for p in model.parameters()) == 97_616_006
    assert (model.name, model.vocab_size, model.grid, model.stride) == ("dvae", 8192, (32, 32), 8)


def test_published_keys():
    shapes = {key: tuple(value.shape) for key, value in published().state_dict().items()}
    assert shapes["encoder.blocks.input.w"] == (256, 3, 7, 7)
    assert shapes["encoder.blocks.group_4.block_1.id_path.w"] == (2048, 1024, 1, 1)
    assert shapes["encoder.blocks.group_1.block_2.res_path.conv_3.w"] == (64, 64, 3, 3)
    assert shapes["encoder.blocks.group_1.block_2.res_path.conv_4.w"] == (256, 64, 1, 1)
    assert shapes["encoder.blocks.output.conv.b"] == (8192,)
    assert shapes["decoder.blocks.input.w"] == (128, 8192, 1, 1)
    assert shapes["decoder.blocks.group_1.block_1.res_path.conv_1.w"] == (512, 128, 1, 1)
    assert shapes["decoder.blocks.group_4.block_2.res_path.conv_4.w"] == (256, 64, 3, 3)
    assert shapes["decoder.blocks.output.conv.w"] == (6, 256, 1, 1)
    assert "encoder.blocks.group_1.block_1.id_path.w" not in shapes  # as wide as its input


@pytest.mark.parametrize("size", [(16, 16), (8, 24)])
def test_shapes_and_determinism(dvae, size):
    pixels = torch.rand(2, 3, *size)
    grid = (size[0] // 8, size[1] // 8)
    ids = dvae.encode(pixels)
    assert ids.shape == (2, grid[0] * grid[1]) and ids.dtype == torch.int64
    assert torch.equal(ids, dvae.encode(pixels))
    decoded = dvae.decode(ids, grid)
    assert decoded.shape == pixels.shape and decoded.min() >= 0 and decoded.max() <= 1


def test_a_block_by_hand():
    """All weights 1, one channel inside: two inputs of 1 and 2 are summed; 3 and 3x3 of ones give 3 x 9 x 9 x 9."""
    block = Block(2, 4, kernels=(1, 3, 3, 3), gain=1 / 64)
    for name, parameter in block.named_parameters():
        nn.init.constant_(parameter, 1.0 if name.endswith("w") else 0.0)
    x = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1).expand(1, 2, 9, 9)
    with torch.no_grad():
        assert block(x)[0, :, 4, 4].tolist() == [3 + 3 * 9**3 / 64] * 4
        assert block(-x)[0, :, 4, 4].tolist() == [-3.0] * 4  # the first ReLU closes the path


def test_a_convolution_keeps_the_size():
    convolution = Conv2d(1, 1, 3)
    nn.init.ones_(convolution.w)
    with torch.no_grad():
        assert convolution(torch.ones(1, 1, 2, 2))[0, 0].tolist() == [[4.0, 4.0], [4.0, 4.0]]


def test_the_gain_is_one_over_the_square_of_all_blocks():
    assert DVAE(DVAEConfig(16, 4, 4, num_blocks=2)).encoder.blocks.group_1.block_1.gain == 1 / 64
    assert DVAE(DVAEConfig(16, 4, 4, num_blocks=1)).decoder.blocks.group_3.block_1.gain == 1 / 16


def test_the_encoder_sees_pixels_squeezed_into_the_margin(dvae):
    seen = []
    dvae.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    dvae.encode(torch.tensor([0.0, 1.0]).view(1, 1, 1, 2).repeat(1, 3, 8, 4))
    torch.testing.assert_close(seen[0][0, 0, 0], torch.tensor([0.1, 0.9] * 4))


@pytest.mark.parametrize(("location", "pixel"), [(0.0, 0.5), (-9.0, 0.0), (9.0, 1.0), (1.0, 0.78882)])
def test_pixels_of_the_decoders_locations(dvae, location, pixel):
    """(sigmoid(1) - 0.1) / 0.8 = (0.731059 - 0.1) / 0.8."""
    nn.init.zeros_(dvae.decoder.blocks.output.conv.w)
    dvae.decoder.blocks.output.conv.b.data = torch.tensor([location] * 3 + [5.0] * 3)  # scales are not used
    decoded = dvae.decode(torch.zeros(1, 4, dtype=torch.int64))
    torch.testing.assert_close(decoded, torch.full((1, 3, 16, 16), pixel), atol=1e-5, rtol=0)


def test_bad_input_is_rejected(dvae):
    with pytest.raises(ValueError, match=r"tiny-dvae needs sides that are multiples of 8 px, not \(16, 12\)"):
        dvae.encode(torch.rand(1, 3, 16, 12))
    with pytest.raises(ValueError, match="batch, 3"):
        dvae.encode(torch.rand(3, 16, 16))
    with pytest.raises(ValueError, match=r"0\.\.15; found 0\.\.16"):
        dvae.decode(torch.tensor([[0, 1, 2, 16]]))
    with pytest.raises(ValueError, match="grid"):
        dvae.decode(torch.zeros(1, 5, dtype=torch.int64))
