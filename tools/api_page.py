"""The page `docs/api.md`: every name that `lorasmith` exports, with its signature, docstring and example.

`python -m tools.docs` writes it. tests/unit/api/test_docstring_examples.py runs the examples.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import lorasmith
from tools.markdown import fold

TARGET = Path(__file__).parents[1] / "docs" / "api.md"
CONFIG = """base = "tiny-sd"
output = "runs/mia"
trigger = ["mia"]
steps = 2

[data]
images = "photos/mia"
resolution = 64
batch_size = 2

[adapter]
rank = 4
"""
"""The config that the examples train with."""
HEAD = f"""# Python functions

Written by `make docs` from the docstrings; a test runs every example.

The commands of Lorasmith are also functions. Nothing is printed; pass a `lorasmith.Progress` to get messages. A mistake
that the caller can repair raises `lorasmith.LorasmithError`.

The examples begin with `import lorasmith`. They are small, so that they take seconds without a GPU: they use the base
that comes with Lorasmith, photos in `photos/mia`, and this `mia.toml`:

```toml
{CONFIG}```

`mia.safetensors` and `rex.safetensors` are LoRAs that were trained like this, and `mia.exact.safetensors` has a
layer-wise token too.
"""
GROUPS = {
    "Train": ["check", "train", "reproduce", "sweep", "doctor"],
    "Draw and measure": ["sample", "evaluate"],
    "Prepare pictures": ["masks"],
    "Files": ["inspect", "convert", "resize", "combine", "merge", "extract", "strip", "fuse", "refit"],
    "Errors and messages": ["LorasmithError", "ConfigError", "Progress", "Lines"],
}


def api_page() -> str:
    """The whole page. Raises ValueError if an exported name is in no group."""
    listed = [name for names in GROUPS.values() for name in names]
    if sorted(listed) != sorted(lorasmith.__all__):
        raise ValueError(
            f"tools/api_page.py: {sorted(set(listed) ^ set(lorasmith.__all__))} is in one of the lists only"
        )
    parts = [HEAD]
    for title, names in GROUPS.items():
        parts.append(f"## {title}")
        parts += [entry(name) for name in names]
    return fold("\n\n".join(part.strip() for part in parts) + "\n")


def entry(name: str) -> str:
    """One name: heading, signature, text, example."""
    value = getattr(lorasmith, name)
    text, example = text_and_example(value)
    parts = [f"### lorasmith.{name}"]
    if not isinstance(value, type):
        parts.append(f"```python\n{name}{signature(value)}\n```")
    parts.append(text)
    if example:
        parts.append(f"```pycon\n{example}\n```")
    return "\n\n".join(parts)


def text_and_example(value: Any) -> tuple[str, str]:
    """The paragraphs of a docstring, and the interpreter session in it, both without indentation."""
    paragraphs = inspect.cleandoc(value.__doc__ or "").split("\n\n")
    first = next((i for i, paragraph in enumerate(paragraphs) if paragraph.startswith(">>>")), len(paragraphs))
    text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs[:first])
    return text, "\n\n".join(paragraphs[first:]).strip()


def signature(function: Any) -> str:
    """A signature with one parameter a line."""
    lines, starred = [], False
    found = inspect.signature(function)
    for parameter in found.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            lines, starred = [*lines, "*"], True
        lines.append(str(parameter).replace("'", ""))
    return "(\n" + "".join(f"    {line},\n" for line in lines) + f") -> {found.return_annotation}"
