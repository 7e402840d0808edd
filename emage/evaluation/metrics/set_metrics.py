"""Metrics of two sets of images, from the features of each: distance, quality and variety.

fid                FID's formula (Heusel et al. 2017): the Frechet distance of two Gaussians, in float64
kid                KID (Binkowski et al. 2018): mean and spread (kid_std) of MMD^2 over subsets, by torch-fidelity
precision_recall   Kynkaanniemi et al. 2019, 3 neighbours, by torch-fidelity: precision is the fraction of generated
                   images that are among the real ones, recall the fraction of real images among the generated ones

Letters: N generated, M real images, D features.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from emage.evaluation.metrics import frechet
from emage.evaluation.metrics.frechet import Moments
from emage.evaluation.networks.features import FeatureExtractor
from emage.evaluation.networks.network_weights import missing_package
from emage.utils.errors import InputError

KID_SUBSET_SIZE = 1000  # images in each of KID's subsets, fewer if a set is smaller
NUM_NEIGHBOURS = 3
KID_SEED = 2020  # torch-fidelity's default


def compare(
    metrics: Sequence[str], generated: Tensor, reference: Tensor, extractor: FeatureExtractor
) -> dict[str, float]:
    """Return metric values, with names that depend on the extractor (`metric_name`).

    Args:
        metrics: Keys of SET_METRICS.
        generated: Features (N, D), float32.
        reference: Features (M, D), float32.
        extractor: The network that the features are from.

    Raises:
        InputError: A set has fewer than two images.
    """
    check_counts(metrics, len(generated), len(reference))
    values: dict[str, float] = {}
    for metric in metrics:
        values |= SET_METRICS[metric](generated, reference)
    return {metric_name(name, extractor): value for name, value in values.items()}


def check_counts(metrics: Sequence[str], num_generated: int, num_reference: int) -> None:
    """Raise InputError if a set has fewer than two images: it has no covariance."""
    for what, count in (("generated", num_generated), ("reference", num_reference)):
        if count < 2:
            raise InputError(f"{', '.join(metrics)}: two {what} images or more are needed, not {count}")


def metric_name(metric: str, extractor: FeatureExtractor) -> str:
    """Return the name under which a value is reported.

    With the published Inception it is the metric's own; with other networks "fid" is "frechet_NAME" and "kid" is
    "kid_NAME".
    """
    if extractor.name == "inception":
        return metric
    return f"{'frechet' if metric == 'fid' else metric}_{extractor.name}"


def fid(generated: Tensor, reference: Tensor) -> dict[str, float]:
    """Compute the Frechet distance, in float64. It is a FID only with the published Inception (`metric_name`)."""
    return {"fid": frechet.distance(Moments.of(generated), Moments.of(reference))}


def kid(generated: Tensor, reference: Tensor) -> dict[str, float]:
    """Compute KID in float64: MMD^2 is a small difference of large means."""
    try:
        from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric
    except ImportError as error:
        raise missing_package("torch-fidelity", error) from None
    size = min(KID_SUBSET_SIZE, len(generated), len(reference))
    found = kid_features_to_metric(
        generated.double(), reference.double(), kid_subset_size=size, rng_seed=KID_SEED, verbose=False
    )
    return {"kid": found[KEY_METRIC_KID_MEAN], "kid_std": found[KEY_METRIC_KID_STD]}


def precision_recall(generated: Tensor, reference: Tensor) -> dict[str, float]:
    """Compute precision and recall. In a set of fewer than four images, all other images are neighbours."""
    try:
        from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric
    except ImportError as error:
        raise missing_package("torch-fidelity", error) from None
    neighbours = min(NUM_NEIGHBOURS, len(generated) - 1, len(reference) - 1)
    found = prc_features_to_metric(
        generated,
        reference,
        prc_neighborhood=neighbours,
        save_cpu_ram=True,  # in chunks: the distances of 40,000 images to each other are 6 GB
        verbose=False,
    )
    return {"precision": found[KEY_METRIC_PRECISION], "recall": found[KEY_METRIC_RECALL]}


SET_METRICS: dict[str, Callable[[Tensor, Tensor], dict[str, float]]] = {
    "fid": fid,
    "kid": kid,
    "precision_recall": precision_recall,
}
