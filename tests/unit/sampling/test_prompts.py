"""What is read from prompts."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorasmith.core.errors import LorasmithError
from lorasmith.families.base import Family
from lorasmith.families.stable_diffusion.emphasis import BREAK, WINDOW, parse, tokens_of
from lorasmith.sampling.prompts import LoraTag, parse_line, read_prompts, split_loras

DOCUMENTED = {
    "normal text": [("normal text", 1.0)],
    "an (important) word": [("an ", 1.0), ("important", 1.1), (" word", 1.0)],
    "(unbalanced": [("unbalanced", 1.1)],
    r"\(literal\]": [("(literal]", 1.0)],
    "(unnecessary)(parens)": [("unnecessaryparens", 1.1)],
    "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).": [
        ("a ", 1.0),
        ("house", 1.573),
        (" ", 1.1),
        ("on", 1.0),
        (" a ", 1.1),
        ("hill", 0.55),
        (", sun, ", 1.1),
        ("sky", 1.4641),
        (".", 1.1),
    ],
    "": [("", 1.0)],
}
"""The examples that A1111 documents."""


@pytest.mark.parametrize("prompt", DOCUMENTED)
def test_documented_emphasis(prompt: str) -> None:
    found = parse(prompt)
    assert [text for text, _ in found] == [text for text, _ in DOCUMENTED[prompt]]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in DOCUMENTED[prompt]])


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("(a:-1) b", [("a", -1.0), (" b", 1.0)]),
        ("(a:.5)(b:2)", [("a", 0.5), ("b", 2.0)]),
        ("(a:1.2.3)", [("a:1.2.3", 1.1)]),
        ("16:9 (x)", [("16:9 ", 1.0), ("x", 1.1)]),
        (") ] :)", [(") ] :)", 1.0)]),
        ("one BREAK two", [("one", 1.0), BREAK, ("two", 1.0)]),
        ("(one BREAK two:1.5)", [("one", 1.5), BREAK, ("two", 1.5)]),
        ("BREAKFAST OUTBREAK", [("BREAKFAST OUTBREAK", 1.0)]),
    ],
)
def test_emphasis_at_the_edges(prompt: str, expected: list[tuple[str, float]]) -> None:
    assert [(text, pytest.approx(weight)) for text, weight in expected] == parse(prompt)


@given(st.text(alphabet="abcB ,:.()[]\\<>é1", max_size=40))
def test_any_text_is_read_and_escaping_makes_it_plain(text: str) -> None:
    assert all(isinstance(weight, float) for _, weight in parse(text))
    escaped = "".join("\\" + c if c in "()[]\\" else c for c in text)
    assert parse(escaped) == [(text, 1.0)]


def test_lora_tags() -> None:
    assert split_loras("a <lora:garp:0.8> cat <lora:my file> <lora:x:0.1:-0.2>") == (
        "a cat",
        [LoraTag("garp", 0.8, 0.8), LoraTag("my file", 1.0, 1.0), LoraTag("x", 0.1, -0.2)],
    )
    assert split_loras("no  tags") == ("no  tags", [])
    with pytest.raises(LorasmithError, match=r"<lora:garp:high>.*not a number"):
        split_loras("<lora:garp:high>")


def test_windows_hold_all_tokens_in_order(family: Family) -> None:
    words = " ".join(f"word{i}" for i in range(90))
    windows = tokens_of(family, words)
    assert [len(w) <= WINDOW for w in windows] == [True] * len(windows)
    assert [token for window in windows for token, _ in window] == family.tokens(words)
    assert [len(w) for w in windows[:-1]] == [WINDOW] * (len(windows) - 1)


def test_windows_end_at_a_near_comma_but_not_at_a_far_one(family: Family) -> None:
    near = tokens_of(family, "cat " * 69 + ", " + "dog " * 20)
    assert [len(w) for w in near] == [70, 20]
    far = tokens_of(family, "cat " * 40 + ", " + "dog " * 50)
    assert [len(w) for w in far] == [75, 16]
    exact = tokens_of(family, "cat " * 75 + ", dog")
    assert [len(w) for w in exact] == [75, 2]


def test_break_begins_a_window(family: Family) -> None:
    windows = tokens_of(family, "a (cat:1.5) BREAK dog")
    assert [[weight for _, weight in w] for w in windows] == [[1.0, 1.5], [1.0]]


def test_a_line_with_options() -> None:
    assert parse_line("a cat -- really --n bad, ugly --d 7 --w 515 --h 20 --l 3.5 --s 9 --ss euler_a") == {
        "prompt": "a cat -- really",
        "negative": "bad, ugly",
        "seed": 7,
        "width": 512,
        "height": 64,
        "cfg": 3.5,
        "steps": 9,
        "sampler": "euler_a",
    }
    assert parse_line("--n only this") == {"prompt": "", "negative": "only this"}


@pytest.mark.parametrize(
    ("line", "message"),
    [("a --q 1", "unknown option --q"), ("a --negative x", "--negative"), ("a --d x", "whole number")],
)
def test_a_line_with_a_mistake(line: str, message: str) -> None:
    with pytest.raises(LorasmithError, match=message):
        parse_line(line)


def test_files_of_prompts_say_the_same_in_each_form(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("# comment\n\na cat --n bad --s 5\na dog --n bad --d 3\n")
    (tmp_path / "p.toml").write_text(
        '[prompt]\nnegative_prompt = "bad"\n[[prompt.subset]]\nprompt = "a cat"\nsample_steps = 5\n'
        '[[prompt.subset]]\nprompt = "a dog"\nseed = 3\n'
    )
    (tmp_path / "p.json").write_text(
        '[{"prompt": "a cat", "negative": "bad", "steps": 5}, {"prompt": "a dog", "negative_prompt": "bad", "seed": 3}]'
    )
    expected = [{"prompt": "a cat", "negative": "bad", "steps": 5}, {"prompt": "a dog", "negative": "bad", "seed": 3}]
    assert [read_prompts(tmp_path / f"p.{form}") for form in ("txt", "toml", "json")] == [expected] * 3


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.txt", "# nothing\n", "no prompt in it"),
        ("p.txt", "fine\na --q 1\n", r"p\.txt:2: unknown option --q"),
        ("p.json", '[{"prompt": "a", "sed": 1}]', "prompt 1: unknown option sed"),
        ("p.json", '[{"seed": 1}]', "each with a `prompt`"),
        ("p.json", "7", "expected a list"),
        ("p.toml", "[prompt\n", "not valid TOML"),
        ("p.toml", 'prompt = "a"\n', "expected a list"),
    ],
)
def test_files_of_prompts_with_mistakes(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(LorasmithError, match=message):
        read_prompts(tmp_path / name)
    with pytest.raises(LorasmithError, match="no such file"):
        read_prompts(tmp_path / "other.txt")


@pytest.mark.parametrize("side", ["width", "height"])
def test_a_side_that_no_memory_holds(side: str) -> None:
    from lorasmith.sampling.request import Request

    with pytest.raises(LorasmithError, match=f"{side} is 99999992; it must be at most 8192"):
        Request(prompt="a", **{side: 99_999_992})
