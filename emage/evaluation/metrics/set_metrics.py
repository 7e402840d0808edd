"""Two sets of images, by the features of each: how far apart they are, how good and how varied the one is.

fid                FID's formula (Heusel et al. 2017): the Frechet distance of two Gaussians, in float64
kid                KID (Binkowski et al. 2018): mean and spread (kid_std) of MMD^2 over subsets, by torch-fidelity
precision_recall   Kynkaanniemi et al. 2019, 3 neighbours, by torch-fidelity: precision is the share of generated
                   images that lie among the real ones, recall the share of real ones among the generated

Letters: N generated, M real images, D features.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from emage.evaluation.metrics import frechet
from emage.evaluation.metrics.features import Extractor, figure_name
from emage.evaluation.metrics.frechet import Moments
from emage.evaluation.metrics.network_weights import needs
from emage.utils.errors import InputError

SUBSET = 1000  # images in each of KID's subsets, fewer where a set is smaller
NEIGHBOURS = 3
SEED = 2020  # torch-fidelity's own default


def compare(metrics: Sequence[str], generated: Tensor, reference: Tensor, extractor: Extractor) -> dict[str, float]:
    """Figures of METRICS over features (N, D) and (M, D) float32, named by the network that made them.

    Raises InputError where a set has fewer than two images.
    """
    for what, features in (("generated", generated), ("reference", reference)):
        if len(features) < 2:
            raise InputError(f"{', '.join(metrics)}: two {what} images or more are needed, not {len(features)}")
    figures: dict[str, float] = {}
    for metric in metrics:
        figures |= METRICS[metric](generated, reference)
    return {figure_name(name, extractor): value for name, value in figures.items()}


def fid(generated: Tensor, reference: Tensor) -> dict[str, float]:
    return {"fid": frechet.distance(Moments.of(generated), Moments.of(reference))}


def kid(generated: Tensor, reference: Tensor) -> dict[str, float]:
    """In float64: MMD^2 is a small difference of large means."""
    try:
        from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric
    except ImportError as error:
        raise needs("torch-fidelity", error) from None
    size = min(SUBSET, len(generated), len(reference))
    found = kid_features_to_metric(
        generated.double(), reference.double(), kid_subset_size=size, rng_seed=SEED, verbose=False
    )
    return {"kid": found[KEY_METRIC_KID_MEAN], "kid_std": found[KEY_METRIC_KID_STD]}


def precision_recall(generated: Tensor, reference: Tensor) -> dict[str, float]:
    """Of fewer than four images, all the others are neighbours."""
    try:
        from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric
    except ImportError as error:
        raise needs("torch-fidelity", error) from None
    neighbours = min(NEIGHBOURS, len(generated) - 1, len(reference) - 1)
    found = prc_features_to_metric(
        generated,
        reference,
        prc_neighborhood=neighbours,
        save_cpu_ram=True,  # in parts: the distances of 40,000 images to each other are 6 GB
        verbose=False,
    )
    return {"precision": found[KEY_METRIC_PRECISION], "recall": found[KEY_METRIC_RECALL]}


METRICS: dict[str, Callable[[Tensor, Tensor], dict[str, float]]] = {
    "fid": fid,
    "kid": kid,
    "precision_recall": precision_recall,
}
