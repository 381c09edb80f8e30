"""The training loop of docs/own-loop.md gives the losses of `lorasmith.train`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from answers import ROOT

import lorasmith

PAGE = (ROOT / "docs/own-loop.md").read_text(encoding="utf-8")
# what the page's formulas leave out
PLAIN = ["objective.weightings=[]", "data.subsets.1.preserve=false", "data.batch_size=2", "data.resolution=64"]


@pytest.mark.slow
def test_the_loop_of_the_page_is_short_and_gives_the_losses_of_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (text,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    code = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert len(code) <= 32
    marker = '["steps=3"]'
    assert marker in text
    exec(compile(text.replace(marker, str(["steps=3", *PLAIN])), "own-loop.md", "exec"), {})
    ours = [float(loss) for loss in re.findall(r"loss ([\d.]+)", capsys.readouterr().out)]
    assert len(ours) == 3
    assert "lora" in lorasmith.inspect("runs/own-loop/own.safetensors")["kind"]

    quick = ["steps=3", "preview.at_end=false", "log.tensorboard=false", "log.every_steps=1", *PLAIN]
    result = lorasmith.train("garp", overrides=quick, output="runs/train", accept_remarks=True)
    events = [json.loads(line) for line in (result.folder / "events.jsonl").read_text().splitlines()]
    theirs = [event["loss"] for event in events if event["event"] == "step"]
    assert ours == pytest.approx(theirs, abs=1e-6)
