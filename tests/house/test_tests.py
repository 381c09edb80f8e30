"""Where tests are: a folder of unit tests is a package of the source, so that a reader finds the tests of a package."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

TESTS = Path(__file__).parents[1]
SOURCE = TESTS.parent / "src" / "lorasmith"


def test_every_folder_of_unit_tests_is_a_package_of_the_source() -> None:
    unit = TESTS / "unit"
    folders = {path.parent.relative_to(unit) for path in unit.rglob("test_*.py")}
    assert [folder for folder in sorted(folders) if not (SOURCE / folder / "__init__.py").is_file()] == []


def test_no_two_test_files_have_one_name() -> None:
    """pytest would import the first of them twice."""
    names = Counter(path.name for path in TESTS.rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []
