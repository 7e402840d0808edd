"""A decoding method of your own on the shipped weights: first a checkerboard of positions, then the others.

python examples/add_a_method.py    # 20 seconds on a CPU; writes checkerboard.png
"""

import sys
from dataclasses import replace

import torch

import emage
from emage.methods import METHODS, base, iterative1, masking, sampling
from emage.utils import image_grid

CAUSAL, TWO_PASSES, PARTIAL_CONTEXT = False, False, True  # MethodModule in emage/methods/base.py explains them
num_scored, loss = iterative1.num_scored, iterative1.loss  # for training


def num_steps(settings, n):
    return 2


def max_random_numbers(settings, n):
    return 2 * n


@torch.no_grad()
def generate(model, context, y_obs, settings, rng):  # y_obs (B,N): the tokens so far, MASK elsewhere
    board = (torch.arange(8)[:, None] + torch.arange(8)).flatten() % 2 == 0  # (N,) half of the 8 x 8 positions
    for unmasked in (board, torch.ones(64, dtype=torch.bool)):
        sampled = sampling.sample_tokens(model(y_obs, context), rng.uniform(64), *sampling.token_settings(settings))
        y_obs = torch.where(unmasked & (y_obs == masking.MASK), sampled.tokens, y_obs)
        yield base.Step(y_obs, torch.where(y_obs == masking.MASK, sampled.tokens, y_obs))


METHODS["checkerboard"] = sys.modules[__name__]
pipe = emage.Emage.from_pretrained("demo")
mine = emage.Emage(pipe.network, pipe.tokenizer, replace(pipe.config, method="checkerboard"))
images = [each.generate("a small red circle above a large blue square", seed=7)[0] for each in (pipe, mine)]
image_grid.make_grid(images, ["iterative3, 16 steps", "checkerboard, 2 steps"]).save("checkerboard.png")
