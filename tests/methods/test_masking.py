import math
from typing import get_args

import pytest
import torch

from emage.config import ObjectiveConfig, Schedule
from emage.methods.masking import (
    MASK,
    ImageRng,
    gumbel,
    halton_rank,
    kept_table,
    max_masked,
    num_kept,
    num_masked,
    random_mask,
    sample_mask,
    sample_num_masked,
    top_k_mask,
)
from emage.methods.unmasking_order import least_confident, masked_positions, position_scores

SCHEDULES = get_args(Schedule)


def test_kept_counts_of_the_papers_run():
    paper = [4, 19, 44, 77, 120, 172, 232, 299, 374, 455, 541, 632, 726, 824, 923, 1024]
    assert [num_kept(t, 16, 1024, "cosine") for t in range(1, 17)] == paper
    assert [num_kept(t, 16, 1024, "linear") for t in range(1, 17)] == [64 * t for t in range(1, 17)]


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("steps", [1, 4, 8, 16, 32])
def test_kept_counts_are_the_papers_floor_except_for_progress_and_the_end(steps: int, schedule: str):
    for n in range(1, 1025):
        counts = [num_kept(t, steps, n, schedule) for t in range(1, steps + 1)]
        assert counts[-1] == n
        before = 0
        for t in range(1, steps):
            tau = t / steps if schedule == "linear" else 1 - math.cos(math.pi / 2 * t / steps)
            before = min(n, max(math.floor(tau * n + 1e-9), before + 1))
            assert counts[t - 1] == before


def test_kept_counts_of_maskgits_other_functions():
    # n = 100, T = 5: x = 0.2, 0.4, 0.6, 0.8, 1; sqrt(0.2) = 0.4472, sqrt(0.4) = 0.6325, ...
    counts = {name: [num_kept(t, 5, 100, name) for t in range(1, 6)] for name in ("square", "cubic", "sqrt")}
    assert counts["square"] == [4, 16, 36, 64, 100]
    assert counts["cubic"] == [1, 6, 21, 51, 100]  # 0.8, 6.4, 21.6, 51.2: the first floor is 0
    assert counts["sqrt"] == [44, 63, 77, 89, 100]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 4, 8, 16, 32])
def test_every_step_keeps_a_new_position_and_the_last_keeps_all(steps: int, schedule: Schedule):
    for n in (1, 2, 7, 16, 31, 32, 33, 64, 256, 1024, 4096):
        counts = [num_kept(t, steps, n, schedule) for t in range(1, steps + 1)]
        assert counts[-1] == n
        for before, after in zip([0, *counts], counts, strict=False):
            assert after > before or before == n


def test_a_whole_number_is_not_lost_to_rounding():
    # floor(tau n) where tau n is whole; in floats (29/100)**2 * 10000 is 840.9999999999999
    assert num_kept(29, 100, 10_000, "square") == 841
    assert num_kept(29, 100, 1_000_000, "cubic") == 24_389
    assert [num_kept(t, 100, 10, "sqrt") for t in (4, 9, 16, 25, 36, 49)][-3:] == [
        10,
        10,
        10,
    ]  # at least one more per step
    assert [num_kept(t * t, 100, 1_000, "sqrt") for t in range(1, 11)] == [100 * t for t in range(1, 11)]


def test_concave_schedules_start_slow_and_the_convex_one_fast():
    first = {name: num_kept(4, 16, 1024, name) for name in SCHEDULES}
    assert first["cubic"] < first["square"] < first["cosine"] < first["linear"] < first["sqrt"]


def test_kept_counts_lose_nothing_to_rounding():
    # 1 - cos(pi/3) is 0.49999999999999994 in float64, and 29/100 x 100 is 28.999999999999996
    assert [num_kept(8, 12, n, "cosine") for n in (1024, 256, 64)] == [512, 128, 32]
    assert num_kept(29, 100, 100, "linear") == 29


def test_a_step_outside_the_schedule_is_rejected():
    for t in (0, 17):
        with pytest.raises(ValueError, match=r"outside 1\.\.16"):
            num_kept(t, 16, 1024)


def test_kept_table_scales_with_each_images_masked_positions():
    table = kept_table(8, steps=2, schedule="linear", device=torch.device("cpu"))
    assert table[:, [8, 4, 0]].tolist() == [[4, 2, 0], [8, 4, 0]]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_no_image_has_more_masked_positions_than_max_masked(schedule: Schedule):
    n, steps = 64, 16
    most = max_masked(n, steps, schedule)
    assert most[0] == n and list(most) == sorted(most, reverse=True)
    for masked in range(1, n + 1):
        left = [masked] + [masked - num_kept(t, steps, masked, schedule) for t in range(1, steps)]
        assert all(a <= b for a, b in zip(left, most, strict=True))
    assert list(most[1:]) == [n - num_kept(t, steps, n, schedule) for t in range(1, steps)]  # and no more than needed


def test_masked_positions_come_first_and_in_order():
    y = torch.tensor([[5, MASK, 7, MASK], [MASK, 1, 2, 3]])
    assert masked_positions(y, 2).tolist() == [[1, 3], [0, 1]]


GAMMA_INVERSE = {  # the r at which gamma(1 - r) is x
    "linear": lambda x: x,
    "square": lambda x: 1 - math.sqrt(1 - x),
    "cubic": lambda x: 1 - (1 - x) ** (1 / 3),
    "sqrt": lambda x: 1 - (1 - x) ** 2,
    "cosine": lambda x: 1 - 2 / math.pi * math.acos(x),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_mask_counts_are_exact_and_reach_one_and_n(schedule: Schedule):
    """k = ceil(gamma n): k <= j just up to the r at which gamma is j/n. For linear that is uniform on 1..n."""
    n = 10
    ends = torch.tensor([GAMMA_INVERSE[schedule](j / n) for j in range(1, n)], dtype=torch.float64)
    assert num_masked(ends - 1e-6, n, schedule).tolist() == list(range(1, n))
    assert num_masked(ends + 1e-6, n, schedule).tolist() == list(range(2, n + 1))
    smallest, largest = 2.0**-24, 1.0  # the r of ImageRng, as float32
    assert num_masked(torch.tensor([smallest, largest]), 1024, schedule).tolist() == [1, 1024]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_image_that_is_masked_everywhere_is_trained_as_often_as_the_schedule_says(schedule: Schedule):
    """Every generation begins with it. P(k = n) = P(gamma > (n-1)/n)."""
    counts = sample_num_masked(8, schedule, ImageRng(range(4000)))
    assert counts.min() == 1 and counts.max() == 8
    p = 1 - GAMMA_INVERSE[schedule](7 / 8)
    assert (counts == 8).float().mean().item() == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / 4000))


def test_mask_counts_by_hand():
    # r = 0.5: 1 - 0.25, 1 - 0.125, 1 - sqrt(0.5); r = 0.25: 1 - 0.5625, 1 - 0.421875, 1 - sqrt(0.75)
    r = torch.tensor([0.25, 0.5])
    assert num_masked(r, 1000, "square").tolist() == [438, 750]
    assert num_masked(r, 1000, "cubic").tolist() == [579, 875]
    assert num_masked(r, 1000, "sqrt").tolist() == [134, 293]


def test_masks_of_the_halton_order_leave_its_beginning_visible():
    mask = sample_mask(16, ObjectiveConfig(mask_order="halton"), ImageRng(range(200)))
    rank, counts = halton_rank(16), mask.sum(1)
    assert set(counts.tolist()) == set(range(1, 17))
    assert all((rank[row] >= 16 - count).all() for row, count in zip(mask, counts, strict=True))


@pytest.mark.parametrize(
    ("schedule", "mean"),
    [("linear", 1 / 2), ("cosine", 2 / math.pi), ("square", 2 / 3), ("cubic", 3 / 4), ("sqrt", 1 / 3)],
)
def test_the_mean_fraction_masked_is_the_integral_of_the_function(schedule: Schedule, mean: float):
    mask = sample_mask(100, ObjectiveConfig(mask_schedule=schedule), ImageRng(range(2000)))
    assert abs(mask.float().mean().item() - mean - 1 / 200) < 0.02  # rounded up: half a position more


def test_random_mask_has_exact_counts_per_row():
    counts = torch.tensor([0, 1, 7, 10])
    assert random_mask(counts, 10, ImageRng([1, 2, 3, 4])).sum(1).tolist() == counts.tolist()


def test_top_k_mask_has_exact_counts_and_ties_are_ordered_by_position():
    scores = torch.tensor([[0.5, 0.9, 0.5, 0.5]]).expand(3, 4)
    assert top_k_mask(scores, torch.tensor([0, 2, 3])).int().tolist() == [[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]]


def test_the_random_numbers_of_an_image_do_not_depend_on_the_batch():
    single = ImageRng([7])
    batch = ImageRng([3, 7, 9])
    for n in (5, 64):
        assert torch.equal(single.uniform(n)[0], batch.uniform(n)[1])


def test_gumbel_noise_is_finite_at_the_edges_and_has_the_correct_mean():
    u = ImageRng([0]).uniform(200_000)
    assert torch.isfinite(gumbel(u)).all()
    assert torch.isfinite(gumbel(torch.tensor([2**-25, 1 - 2**-24]))).all()
    assert abs(gumbel(u).mean().item() - 0.5772) < 0.01


def test_position_noise_is_gumbel_noise_times_its_scale():
    log_p = torch.tensor([[-3.0, -1.0, -2.0]])
    scores = position_scores("confidence", log_p, torch.zeros(1, 3), 2.5, ImageRng([4]))
    assert torch.allclose(scores, log_p - 2.5 * torch.log(-torch.log(ImageRng([4]).uniform(3))))


def test_without_noise_positions_are_ordered_by_confidence_alone():
    log_p = torch.tensor([[-3.0, -1.0, -2.0]])
    scores = position_scores("confidence", log_p, torch.zeros(1, 3), 0.0, ImageRng([0]))
    assert torch.equal(scores, log_p)


def test_least_confident_positions_are_the_least_probable_of_the_unmasked():
    log_p = torch.tensor([[-9.0, -1.0, -5.0, -2.0], [-9.0, -1.0, -5.0, -2.0]])
    unmasked = torch.tensor([[False, True, True, True], [True, True, False, True]])
    max_count = torch.tensor([4, 4])
    assert least_confident(unmasked, log_p, 0.4, max_count).tolist() == [
        [False, False, True, False],
        [True, False, False, False],
    ]
    assert (
        not least_confident(unmasked, log_p, 0.3, max_count).any()
        and not least_confident(unmasked, log_p, 0.0, max_count).any()
    )
    assert least_confident(unmasked, log_p, 0.99, torch.tensor([1, 0])).sum(1).tolist() == [1, 0]


def test_halton_order_begins_with_the_first_point_of_the_sequence():
    """Points 1 to 4 of bases 2 and 3 are (1/2, 1/3), (1/4, 2/3), (3/4, 1/9), (1/8, 4/9): of 5 x 7 positions."""
    ranks = halton_rank(35).reshape(5, 7)
    assert [int(ranks[place]) for place in ((2, 2), (1, 4), (3, 0), (0, 3))] == [0, 1, 2, 3]
    assert ranks[0, 0] > 3  # point 0 of the sequence is not used


def test_halton_order_visits_every_position_once_and_spreads_out():
    ranks = halton_rank(64)
    assert sorted(ranks.tolist()) == list(range(64))
    first = (ranks < 4).nonzero().flatten()
    quadrants = {(int(i) // 8 // 4, int(i) % 8 // 4) for i in first}
    assert len(quadrants) >= 3


def test_compiled_the_mask_of_the_highest_scores_is_the_same():
    compiled = torch.compile(top_k_mask, backend="eager")
    scores = torch.tensor([[1.0, 3.0, 2.0, 3.0, 0.5], [2.0, 2.0, 2.0, 2.0, 2.0]])
    for counts in ([0, 3], [1, 5], [2, 1], [3, 2]):
        expected = top_k_mask(scores, torch.tensor(counts))
        assert torch.equal(compiled(scores, torch.tensor(counts)), expected)
        assert expected.sum(1).tolist() == counts
    assert top_k_mask(scores, torch.tensor([1, 2])).int().tolist() == [[0, 1, 0, 0, 0], [1, 1, 0, 0, 0]]
