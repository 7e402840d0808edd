"""The paper's five methods, by name in METHODS. A method is a module with these names, and needs no others:

| name | meaning |
| --- | --- |
| `CAUSAL` | True if the network's self-attention sees earlier positions only |
| `TWO_PASSES` | True if training feeds the network its own tokens, so that a warm start as iterative1 makes sense |
| `PARTIAL_CONTEXT` | True if the network is trained to read partly masked images |
| `SCORES_ALL` | True if the loss is over all positions; False: over the mask that `loss` samples first |
| `num_steps(settings, n)` | the number of decoding steps that `generate` takes for n tokens |
| `max_random_numbers(settings, n)` | the largest number of random numbers that an image needs |
| `loss(model, y, context, objective, rng)` | returns a Loss |
| `generate(model, context, y_obs, settings, rng)` | yields a Step after each decoding step |

`model(tokens (B,N), context) -> logits (B,N,V)` is any callable, `y` (B,N) the image's tokens, `y_obs` (B,N) the tokens
that are given before generation begins (MASK elsewhere), `rng` an ImageRng, or in generation a BufferedRng. A method
never sees captions or pixels. If a model has `logits_at(tokens, context, positions (B,M)) -> logits (B,M,V)`, as the
network has, methods call that for the masked positions alone if they need no others.
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
