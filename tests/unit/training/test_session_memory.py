"""What a session does with the memory of devices when it ends."""

from __future__ import annotations

from typing import Any

import pytest

from lorasmith.core.errors import LorasmithError
from lorasmith.training import session
from lorasmith.training.config import load_config


@pytest.mark.parametrize(("error", "freed"), [(LorasmithError("a mistake"), True), (RuntimeError("CUDA error"), False)])
def test_a_device_that_may_be_broken_is_left_alone(
    error: Exception, freed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Freeing its memory ended the process with a segmentation fault, which hid the error."""
    calls: list[str] = []

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(session, "_train", fail)
    monkeypatch.setattr(session, "available_backends", lambda: ["cuda"])
    monkeypatch.setattr(session, "free_unused", lambda: calls.append("freed"))
    with pytest.raises(type(error)):
        session.train(load_config({"base": "tiny-sd", "output": "run", "data": {"images": "."}}))
    assert bool(calls) == freed
