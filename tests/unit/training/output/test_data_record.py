"""data.json names the images from the folder of the run, so that a run can be passed on; readers get whole paths."""

from __future__ import annotations

from pathlib import Path

from lorasmith.training.output.data_record import from_folder
from lorasmith.training.output.report.record import with_whole_paths


def test_files_are_named_from_the_folder_of_the_run_and_found_again(tmp_path: Path) -> None:
    run, image = tmp_path / "runs" / "garp", tmp_path / "images" / "1.png"
    run.mkdir(parents=True)
    named = from_folder(run, str(image))
    assert named == "../../images/1.png"
    # data.json of older versions has whole paths; a damaged one may have anything
    data = {"images": [{"file": named}, {"file": str(image)}, {"file": 5}, 7], "remarks": "none", "trigger_tokens": {}}
    read = with_whole_paths(run, data)
    whole = str(image.resolve())
    assert read == {**data, "images": [{"file": whole}, {"file": whole}, {"file": 5}, 7]}


def test_through_a_link_the_files_are_found_too(tmp_path: Path) -> None:
    real, image = tmp_path / "disk" / "deep" / "garp", tmp_path / "images" / "1.png"
    real.mkdir(parents=True)
    link = tmp_path / "garp"
    link.symlink_to(real)
    data = {"images": [{"file": from_folder(link, str(image))}]}
    assert with_whole_paths(link, data) == {"images": [{"file": str(image.resolve())}]}
