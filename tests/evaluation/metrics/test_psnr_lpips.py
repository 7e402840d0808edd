"""PSNR by hand; LPIPS compared with its authors' own code, with random weights in torchvision's format."""

import math
import warnings

import pytest
import torch
import torchvision

from emage.evaluation.metrics.psnr_lpips import Lpips, psnr
from emage.utils.errors import InputError


def flat(*values: int) -> torch.Tensor:
    """One image of 4 x 4 for each grey value."""
    return torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 4, 4)


def test_psnr():
    found = psnr(flat(100, 0, 0), flat(95, 255, 1))
    assert found.tolist() == pytest.approx([10 * math.log10(255**2 / 25), 0, 20 * math.log10(255)])


def test_psnr_of_one_changed_pixel():
    changed = flat(0).clone()
    changed[0, 0, 0, 0] = 12  # 144 over 48 values
    assert psnr(flat(0), changed).item() == pytest.approx(10 * math.log10(255**2 / 3))


def test_an_exact_copy_is_as_good_as_rounding():
    assert psnr(flat(7), flat(7)).item() == pytest.approx(10 * math.log10(255**2 * 12))


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory):
    torch.manual_seed(0)
    features = torchvision.models.alexnet(weights=None).features.state_dict()
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    torch.save({f"features.{key}": value for key, value in features.items()}, path)
    return path


def test_lpips_equals_that_of_its_authors(alexnet):
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)  # the random weights of the file's AlexNet
        theirs = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    a, b = torch.randint(0, 256, (2, 3, 3, 64, 64), dtype=torch.uint8)
    found = Lpips(alexnet)(a, b)
    assert found.shape == (3,)
    torch.testing.assert_close(found, theirs(a / 255, b / 255, normalize=True).flatten(), rtol=1e-4, atol=1e-7)


def test_lpips_of_an_image_and_itself_is_zero(alexnet):
    a, b = torch.randint(0, 256, (2, 1, 3, 64, 64), dtype=torch.uint8)
    judge = Lpips(alexnet)
    assert judge(a, a).item() == 0 < judge(a, b).item()


def test_weights_of_another_network_are_rejected(tmp_path):
    path = tmp_path / "other.pth"
    torch.save({"features.0.weight": torch.zeros(64, 3, 11, 11)}, path)
    with pytest.raises(InputError, match=r"other.pth is not the AlexNet of https.*features\.0\.bias"):
        Lpips(path)
