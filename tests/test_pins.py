"""constraints.txt: no pin is older than the release that mended the last known flaw of its package."""

import re
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from packaging.version import Version

ROOT = Path(__file__).parents[1]
# Package -> the oldest release without a flaw that was known on 2026-12-01, and what it mends.
FIXED = {
    "pillow": ("13.0.0", "CVE-2026-96641"),
    "setuptools": ("78.1.1", "CVE-2022-40897, CVE-2024-6345, CVE-2025-47273"),
    "diffusers": ("0.42.1", "CVE-2026-44513, GHSA-4prv-5hj7-c2xr"),
    "torch": ("2.10.0", "CVE-2026-24747"),
    "mlflow": ("3.17.2", "CVE-2026-53995"),
    "starlette": ("1.3.1", ""),
    "python-multipart": ("0.0.27", ""),
    "urllib3": ("2.8.0", ""),
    "aiohttp": ("3.14.4", ""),
    "idna": ("3.15", ""),
    "certifi": ("2026.10.19", "CVE-2026-111943"),
    "ray": ("2.60.0", "CVE-2023-48022 and later ones; 2.60.1 (the token's file) is in SECURITY.md"),
}


def pins() -> dict[str, set[str]]:
    """Return the versions of each package; more than one if they differ by Python."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.M):
        found.setdefault(name, set()).add(version)
    return found


@pytest.mark.parametrize("package", FIXED)
def test_no_pin_is_older_than_its_last_mend(package: str):
    oldest, flaw = FIXED[package]
    assert all(Version(version) >= Version(oldest) for version in pins()[package]), flaw


def held_back() -> set[str]:
    """Return the packages for which pyproject.toml has an upper bound."""
    lines = re.findall(r'^    "([\w-]+)(?:\[.*\])?([<=>!][^";]*)"', (ROOT / "pyproject.toml").read_text(), re.M)
    return {name for name, bound in lines if {part.operator for part in SpecifierSet(bound)} & {"==", "<", "<="}}


def test_security_md_names_the_pins_that_are_held_back():
    text = (ROOT / "SECURITY.md").read_text()
    for package in held_back():
        assert f"| `{package}" in text, package


def test_no_new_version_is_proposed_for_what_is_held_back():
    updates = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text())["updates"]
    (python,) = (entry for entry in updates if entry["package-ecosystem"] == "pip")
    assert {entry["dependency-name"] for entry in python["ignore"]} == held_back()
    for entry in updates:
        for folder in entry.get("directories", [entry.get("directory")]):
            assert (ROOT / folder.strip("/")).is_dir()


def test_every_exception_of_bandit_says_why():
    """A line has the name of the test; a reason follows, or stands in the line before."""
    for file in [*(ROOT / "emage").rglob("*.py"), *(ROOT / "pipelines").rglob("*.py")]:
        for line in file.read_text().splitlines():
            assert "nosec" not in line or re.search(r"# nosec B\d{3}\b", line), f"{file}: {line}"
