"""The paper's five methods. A method is a module with these names, and nothing else is asked of it:

    CAUSAL           whether the network's self-attention looks back only
    TWO_PASSES       whether training feeds the network its own tokens, so that a warm start as #1 makes sense
    PARTIAL_CONTEXT  whether the network is trained to read an image of which only some tokens are known
    SCORES_ALL       whether the loss is over all positions, or over those of the mask that `loss` draws first
    num_steps(settings, n)   how many steps `generate` takes for n tokens
    max_random_numbers(settings, n)  how many random numbers an image, at most
    loss(model, y, context, objective, rng) -> Loss
    generate(model, context, y_obs, settings, rng) -> iterator of Step, one an iteration

`model(tokens (B,N), context) -> logits (B,N,V)` is any callable, `y` (B,N) the image's tokens, `y_obs` (B,N) what is
known before generation begins (MASK elsewhere), `rng` an ImageRng, or in generation a BufferedRng. A method never sees
captions or pixels. A model that has `logits_at(tokens, context, positions (B,M)) -> logits (B,M,V)` as well, like the
network, is asked by that for the masked positions alone where no others matter.
"""

from types import ModuleType

from emage.methods import autoregressive, fully_nar, iterative1, iterative2, iterative3

METHODS: dict[str, ModuleType] = {
    "fully_nar": fully_nar,
    "iterative1": iterative1,
    "iterative2": iterative2,
    "iterative3": iterative3,
    "autoregressive": autoregressive,
}
