import torch

from emage.training import train_vqgan


def unit(*rows) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.tensor(rows, dtype=torch.float32), dim=1)


def test_distinct_patches():
    images = torch.zeros(2, 3, 8, 16)
    images[0, :, :, 8:] = 1.0
    images[1, :, 0, 0] = 1.0
    patches, indices = train_vqgan.distinct_patches(images)
    assert patches.shape == (3, 3, 8, 8)
    assert torch.equal(patches[indices[0, 1]], torch.ones(3, 8, 8))
    assert indices[0, 0] == indices[1, 1] != indices[1, 0]
    assert torch.equal(train_vqgan.assemble(patches[indices], (1, 2)), images)


def test_codes_follow_the_mean_of_their_latents():
    codes = unit([1, 0], [0, 1], [-1, 0])
    latents = unit([3, 1], [3, -1], [1, 5])
    ids = train_vqgan.assign(latents, codes)
    assert ids.tolist() == [0, 0, 1]
    for _ in range(200):
        train_vqgan.move_codes(codes, latents, ids, decay=0.9)
    torch.testing.assert_close(codes, unit([1, 0], [1, 5], [-1, 0]))


def test_unused_codes_move_to_the_worst_latents():
    codes = unit([1, 0], [0, 1], [-1, 0])
    latents = unit([1, 0], [2, 1], [0, 1])
    train_vqgan.move_unused_codes(codes, latents, train_vqgan.assign(latents, codes))
    assert train_vqgan.assign(latents, codes).tolist() == [0, 2, 1]


def test_fixed_codes_are_the_means_of_their_latents():
    codes = unit([1, 0], [0, 1], [1, 0.1], [0.1, 1])
    latents = unit([1, -0.1], [-0.1, 1])
    ids = train_vqgan.fix_codes(codes, latents, torch.Generator().manual_seed(0))
    assert ids.tolist() == train_vqgan.assign(latents, codes).tolist() == [0, 1]
    torch.testing.assert_close(codes[ids], latents)
    assert (latents @ codes[2:].T).max() < 0  # in the quarter of the circle that faces away from both


def test_only_near_latents_repel_each_other():
    assert train_vqgan.repulsion(unit([1, 0], [0, 1], [-1, 0])) == 0
    torch.testing.assert_close(train_vqgan.repulsion(unit([1, 0], [1, 0], [-1, 0])), torch.tensor(0.25 * 2 / 3))


def test_learning_rate():
    rates = [train_vqgan.learning_rate(step, 100) for step in range(101)]
    assert rates[4] == max(rates) == 1.0 and rates[0] == 0.2 and abs(rates[100]) < 1e-9


def test_a_few_steps_run_and_are_deterministic():
    settings = {"steps": 3, "batch": 2, "lr": 1e-3, "freeze": 0.6, "num_images": 20, "seed": 0}
    first, second = (train_vqgan.train(**settings).state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)
    torch.testing.assert_close(first["quantize.embedding.weight"].norm(dim=1), torch.ones(512))
