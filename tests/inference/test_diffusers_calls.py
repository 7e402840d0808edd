"""The calls that code written for diffusers makes: they generate what `generate` does."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from same_images import same

import emage
from emage.inference.pipeline_parts.diffusers_calls import seeds_of
from emage.utils.errors import InputError

PROMPTS = ["a small red circle", "a large blue square"]


@pytest.fixture
def pipe(tiny_model: Path) -> emage.Emage:
    pipe = emage.Emage.from_pretrained(str(tiny_model), device="cpu")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def all_same(a: Any, b: Any) -> bool:
    return len(a) == len(b) and all(map(same, a, b))


def test_a_new_generator_is_a_seed(pipe: emage.Emage) -> None:
    called = pipe(PROMPTS[0], num_inference_steps=4, generator=seeded(7))
    assert called.seeds == [7] and called[0] is called.images
    assert seeds_of(seeded(2**63 - 1), 1) == [2**63 - 1] and seeds_of(seeded(2**63), 1) == [0]
    assert all_same(called.images, pipe.generate(PROMPTS[0], seed=7, steps=4))


def test_several_prompts_and_images_and_a_generator_of_each(pipe: emage.Emage) -> None:
    called = pipe(PROMPTS, num_images_per_prompt=2, num_inference_steps=3, generator=[seeded(i) for i in range(4)])
    prompts = [PROMPTS[0], PROMPTS[0], PROMPTS[1], PROMPTS[1]]
    assert all_same(called.images, pipe.generate(prompts, seed=[0, 1, 2, 3], steps=3))
    small = pipe(PROMPTS, num_images_per_prompt=2, num_inference_steps=3, generator=seeded(0), batch_size=3)
    assert len(set(small.seeds)) == 4 and small.seeds[0] == 0
    assert all_same(small.images, pipe.generate(prompts, seed=small.seeds, steps=3))


def test_a_generator_goes_on_and_a_reset_one_starts_again(pipe: emage.Emage) -> None:
    one = seeded(7)
    first, second = (seeds_of(one, 2) for _ in range(2))
    assert first[0] == 7 and len({*first, *second}) == 4
    assert seeds_of(seeded(7), 4) == [*first, *second]
    assert seeds_of(one.manual_seed(7), 2) == first
    torch.manual_seed(3)
    drawn = seeds_of(None, 2)
    torch.manual_seed(3)
    assert seeds_of(None, 2) == drawn and len(set(drawn)) == 2


def test_guidance_and_a_negative_prompt(pipe: emage.Emage) -> None:
    arguments: dict[str, Any] = {"num_inference_steps": 4, "temperature": 0.9}
    called = pipe(PROMPTS[0], guidance_scale=5.0, negative_prompt="a cat", generator=seeded(1), **arguments)
    settings = {"steps": 4, "temperature": 0.9, "guidance": 5.0}
    assert all_same(called.images, pipe.generate(PROMPTS[0], negative_prompt="a cat", seed=1, **settings))
    off = pipe(PROMPTS[0], guidance_scale=1.0, generator=seeded(1), **arguments)
    assert all_same(off.images, pipe.generate(PROMPTS[0], seed=1, steps=4, temperature=0.9, guidance=0.0))


def test_output_types(pipe: emage.Emage) -> None:
    (image,) = pipe(PROMPTS[0], num_inference_steps=2, generator=seeded(1)).images
    array = pipe(PROMPTS[0], num_inference_steps=2, generator=seeded(1), output_type="np").images
    assert array.shape == (1, 64, 64, 3) and array.dtype == np.float32
    assert np.array_equal((array[0] * 255).round().astype(np.uint8), np.asarray(image))
    (tensor,) = pipe(PROMPTS[0], num_inference_steps=2, generator=seeded(1), output_type="pt", return_dict=False)
    assert tensor.shape == (1, 3, 64, 64) and np.array_equal(tensor[0].permute(1, 2, 0).numpy(), array[0])


def test_the_callback_is_called_after_each_step_of_each_batch(pipe: emage.Emage) -> None:
    calls = []

    def on_step_end(called: Any, step: int, left: int, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        assert called is pipe
        calls.append((step, left, tuple(tensors["latents"].shape)))
        return tensors

    pipe(
        PROMPTS,
        num_inference_steps=3,
        batch_size=1,
        callback_on_step_end=on_step_end,
        callback_on_step_end_tensor_inputs=["latents"],
    )
    assert calls == [(0, 2, (1, 64)), (1, 1, (1, 64)), (2, 0, (1, 64))] * 2


def test_the_progress_bar_can_be_turned_off(pipe: emage.Emage, capfd: pytest.CaptureFixture) -> None:
    pipe(PROMPTS[0], num_inference_steps=2)
    assert capfd.readouterr().err == ""
    pipe.set_progress_bar_config(desc="images")
    pipe(PROMPTS, num_inference_steps=2, batch_size=1)
    assert "images: 100%" in (shown := capfd.readouterr().err) and "4/4" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"height": 512, "width": 512}, r"this model generates 64x64 \(width x height\): leave height and width out"),
        ({"output_type": "latent"}, "output_type=latent: must be one of pil, np, pt"),
        ({"generator": [seeded(1)] * 3}, "3 generators for 1 images: pass one, or one per image"),
        ({"generator": [7]}, "generator must be a torch.Generator, or one per image, not int"),
        ({"generator": 7}, "generator must be a torch.Generator, or one per image, not int"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt=0: must be a whole number of at least 1"),
        ({"num_inference_steps": 65}, "steps=65: must be at most 64"),
        (
            {"num_inference_steps": 4, "steps": 4},
            "num_inference_steps and steps are the same setting: pass one of them",
        ),
        ({"guidance_scale": 4.0, "guidance": 0.0}, "guidance_scale and guidance are the same setting"),
        ({"callback_on_step_end_tensor_inputs": ["prompt_embeds"]}, "there is no 'prompt_embeds', only latents"),
        ({"scheduler": None}, "unknown sampling setting 'scheduler'; did you mean schedule"),
    ],
)
def test_what_the_model_cannot_do_is_one_line(pipe: emage.Emage, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        pipe(PROMPTS[0], **arguments)
    assert pipe(PROMPTS[0], height=64, width=64, num_inference_steps=1).images[0].size == (64, 64)


def test_to_moves_the_model(pipe: emage.Emage) -> None:
    pipe.runner.use_cuda_graphs = False
    before = pipe.generate(PROMPTS[0], seed=7, steps=2)[0]
    assert pipe.to("cpu") is pipe and same(pipe.generate(PROMPTS[0], seed=7, steps=2)[0], before)
    half = pipe.to(device="cpu", dtype=torch.float16)
    assert half.dtype == "float16" and half.network.decoder.head.weight.dtype == torch.float16
    assert half.generate(PROMPTS[0], seed=7, steps=2)[0].size == (64, 64) and not half.runner.use_cuda_graphs
    with pytest.raises(InputError, match=r"dtype must be one of float32, tf32, bfloat16, float16, not torch\.int8"):
        pipe.to(torch.int8)
    with pytest.raises(InputError, match="device=gpu: there is no such device"):
        pipe.to("gpu")
    assert half.to(dtype="float32").network.decoder.head.weight.dtype == torch.float32
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match=r"device=cuda: PyTorch .* sees no GPU here; use device=cpu"):
            pipe.to("cuda")
