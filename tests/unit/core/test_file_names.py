"""Names that some file system does not take are found before a run writes anything."""

from __future__ import annotations

import pytest

from lorasmith.core.errors import ConfigError
from lorasmith.core.file_names import name_fault
from lorasmith.training.config import load_config


@pytest.mark.parametrize("name", ["CON", "nul", "Aux.v2", "com1", "LPT9.x"])
def test_a_device_of_windows_is_no_name(name: str) -> None:
    assert "device on Windows" in name_fault(name)


@pytest.mark.parametrize("name", ["mia ", " mia", "mia v1."])
def test_a_name_that_windows_would_change_is_refused(name: str) -> None:
    assert "Windows leaves out" in name_fault(name)


@pytest.mark.parametrize("name", ["mia", "console", "com10", "nul-mia", "mia.v1", "Ünïcode 漢字", ".hidden"])
def test_other_names_are_allowed(name: str) -> None:
    assert name_fault(name) == ""


def test_a_config_with_such_an_output_says_so_and_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r'"aux" \(the name of the output folder\) is the name of a device'):
        load_config({"base": "tiny-sd", "output": "runs/aux", "data": {"images": "photos"}})
