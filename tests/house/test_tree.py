"""What must not be in the tree: places of one machine, addresses of package hosts, large files."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLACES = re.compile(r"(?<![\w./$}-])/(?:home|root|work|Users|opt|mnt)/\w")
HOSTS = re.compile(r"pypi\.org|pythonhosted|index-url|download\.pytorch\.org|npmjs", re.IGNORECASE)
LARGEST = 30_000_000
OURS = ("tests/house/test_tree.py",)


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and name not in OURS and (ROOT / name).is_file()]


def texts(tracked: list[Path]) -> list[tuple[Path, str]]:
    found = []
    for path in tracked:
        try:
            found.append((path.relative_to(ROOT), path.read_text(encoding="utf-8")))
        except UnicodeDecodeError:
            continue
    return found


def test_no_place_of_one_machine_is_named(tracked: list[Path]) -> None:
    assert [(path, m.group()) for path, text in texts(tracked) if (m := PLACES.search(text))] == []


def test_no_package_host_is_named(tracked: list[Path]) -> None:
    assert [(path, m.group()) for path, text in texts(tracked) if (m := HOSTS.search(text))] == []


def test_no_file_is_too_large(tracked: list[Path]) -> None:
    assert [(path, path.stat().st_size) for path in tracked if path.stat().st_size > LARGEST] == []


def test_prose_has_at_most_120_columns(tracked: list[Path]) -> None:
    """Tables, code blocks and lines that are one long link may be wider."""
    long: list[str] = []
    for path, text in texts([p for p in tracked if p.suffix == ".md"]):
        in_code = False
        for number, line in enumerate(text.splitlines(), 1):
            in_code ^= line.lstrip().startswith("```")
            breakable = not in_code and " " in line.strip() and not line.startswith(("|", "    ", "#"))
            if breakable and len(line) > 120:
                long.append(f"{path}:{number}")
    assert long == []


def test_constraints_pin_everything_that_the_package_needs() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *(n for extra in project["optional-dependencies"].values() for n in extra)]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {plain(line.split("==")[0]) for line in lines if "==" in line}
    assert all("==" in line or line.startswith("#") for line in lines)
    assert {plain(name) for name in needed} - {project["name"]} <= pinned


def plain(requirement: str) -> str:
    return re.split(r"[\s<>=!~\[;]", requirement.strip())[0].lower().replace("_", "-")
