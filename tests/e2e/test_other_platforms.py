"""What is different on Windows and macOS, as far as a Linux machine can show it: docs/platforms.md lists it."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lorasmith import api
from lorasmith.cli.main import main
from lorasmith.training.sweep.rows import read_rows


@pytest.fixture
def cp1252_console(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """Runs a command whose output goes to a console of Western Windows; gives the exit code and what it printed."""

    def run(*arguments: str | Path) -> tuple[int, str]:
        streams = [io.TextIOWrapper(io.BytesIO(), encoding="cp1252", errors="strict") for _ in range(2)]
        monkeypatch.setattr(sys, "stdout", streams[0])
        monkeypatch.setattr(sys, "stderr", streams[1])
        monkeypatch.setattr(sys, "argv", ["lorasmith", *map(str, arguments)])
        code: int | str | None = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        for stream in streams:
            stream.flush()
        text = "".join(stream.buffer.getvalue().decode("cp1252") for stream in streams)  # type: ignore[attr-defined]
        monkeypatch.undo()
        return int(code or 0), text

    return run


@pytest.mark.slow
def test_commands_print_on_a_console_without_unicode(
    cp1252_console: Callable[..., tuple[int, str]], config: Callable[..., Path], pictures: Callable[..., Path]
) -> None:
    images = pictures(2)
    first = next(images.glob("*.png"))
    first.with_suffix(".txt").write_text("a photo of garp, 漢字 → ✓", encoding="utf-8")
    first.rename(first.with_name("写真.png"))
    first.with_suffix(".txt").rename(first.with_name("写真.txt"))
    path = config(images=images)
    for arguments in (["--help"], ["recipes"], ["recipes", "garp"], ["check", path], ["train", path, "--yes"]):
        code, text = cp1252_console(*arguments)
        assert code == 0, text
        assert "Traceback" not in text
    run = path.parent / "run"
    for arguments in (["inspect", run / "garp.safetensors"], ["inspect", run], ["report", run]):
        code, text = cp1252_console(*arguments)
        assert code == 0, text
    code, text = cp1252_console("train", path, "name=写真|")
    assert code == 1
    assert "\\u5199" in text


def test_files_with_the_line_ends_of_windows_mean_the_same(
    config: Callable[..., Path], pictures: Callable[..., Path], tmp_path: Path
) -> None:
    images = pictures(2)
    path = config(images=images)
    expected = api.read_config(path)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert api.read_config(path) == expected
    (images / "crlf.png").write_bytes(next(images.glob("*.png")).read_bytes())
    # a caption file in capitals, as a camera or an old program writes it
    (images / "crlf.TXT").write_bytes(b"a photo of garp\r\na drawing of garp\r\n")
    from lorasmith.data.dataset import Dataset

    records = Dataset.build(expected.data, seed=0, default_caption="garp").records
    (found,) = [record for record in records if record.path.stem == "crlf"]
    assert found.captions == ("a photo of garp", "a drawing of garp")
    table = tmp_path / "runs.csv"
    table.write_bytes(b"name,adapter.rank\r\na,4\r\nb,8\r\n")
    rows = [{key: str(value) for key, value in row.items()} for row in read_rows(table)]
    assert [row["adapter.rank"] for row in rows] == ["4", "8"]


def test_a_run_needs_no_fork_no_sysconf_and_no_sighup(
    config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in ((os, "fork"), (os, "sysconf"), (os, "getuid"), (signal, "SIGHUP"), (os, "killpg")):
        monkeypatch.delattr(module, name, raising=False)
    result = api.train(config(), accept_remarks=True)
    assert result.finished
    assert result.file is not None
    assert result.file.is_file()


def test_a_path_with_backslashes_in_double_quotes_is_explained(config: Callable[..., Path]) -> None:
    from lorasmith.core.errors import LorasmithError

    path = config()
    path.write_text('base = "tiny-sd"\noutput = "x"\ndata.images = "C:\\Users\\mia"\n', encoding="utf-8")
    with pytest.raises(LorasmithError, match=r"write Windows paths with / or in single quotes"):
        api.read_config(path)


def test_outputs_that_differ_in_case_are_one_run_where_case_does_not_count(
    config: Callable[..., Path], tmp_path: Path
) -> None:
    """A link stands for what such a file system does: both names lead to one folder."""
    from lorasmith.core.errors import LorasmithError

    path = config()
    (tmp_path / "Mia").mkdir()
    (tmp_path / "Mia/config.toml").write_text("# an older run\n", encoding="utf-8")
    (tmp_path / "mia").symlink_to(tmp_path / "Mia", target_is_directory=True)
    with pytest.raises(LorasmithError, match="mia already holds a run"):
        api.train(path, output=tmp_path / "mia", accept_remarks=True)
    assert (tmp_path / "Mia/config.toml").read_text(encoding="utf-8") == "# an older run\n"


@pytest.mark.parametrize(
    ("other", "named"), [("<Mia>", "where case does not count"), ("mia", "would be one file, mia")]
)
def test_words_whose_embedding_files_would_be_one_are_refused(
    config: Callable[..., Path], other: str, named: str
) -> None:
    from lorasmith.core.errors import ConfigError

    path = config(tables=f'[[concepts]]\nwords = ["<mia>"]\n[[concepts]]\nwords = ["{other}"]')
    with pytest.raises(ConfigError, match=named) as error:
        api.read_config(path)
    assert error.value.problems[0].where == "concepts.1.words"
