"""Safetensors files whose header, metadata, names, shapes, dtypes or numbers are damaged."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tools.fuzzing.guard import Case
from tools.fuzzing.material import Material
from tools.fuzzing.values import Draw, damaged, damaged_bytes, texts, values

DTYPES = (
    "F64",
    "F32",
    "F16",
    "BF16",
    "F8_E4M3",
    "F8_E5M2",
    "I64",
    "I32",
    "I8",
    "U8",
    "BOOL",
    "C64",
    "F4",
    "XX",
    "",
    None,
    7,
)
SIZES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I64": 8,
    "I32": 4,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
SHAPES: tuple[Any, ...] = (
    [],
    [0],
    [1],
    [-1],
    [1 << 40],
    [1 << 62, 4],
    [2, 0, 3],
    [1] * 9,
    [1.5],
    ["2"],
    None,
    "x",
    [[2]],
)
METADATA_KEYS = (
    "ss_network_args", "ss_network_module", "ss_network_dim", "ss_network_alpha", "ss_tag_frequency",
    "ss_base_model_version", "ss_v2", "ss_output_name", "lora_adapter_metadata", "lorasmith", "lorasmith.config",
    "lorasmith.kind", "lorasmith.adapter", "lorasmith.words", "lorasmith.plugins", "lorasmith.history",
    "lorasmith.trigger", "lorasmith.configs", "modelspec.title", "modelspec.architecture",
    "modelspec.trigger_phrase", "format", "sshs_model_hash", "ss_training_comment",
)  # fmt: skip
NAME_PARTS = (
    (".lora_down.weight", ".lora_up.weight"), ("lora_unet_", "lora_te_"), ("lora_unet_", "lora_te2_"),
    (".alpha", ".scalar"), (".lora_down.weight", ".lora_A.weight"),
    (".lora_up.weight", ".lora_B.default_0.weight"), ("lora_unet_", "base_model.model."),
    (".lora_down.weight", ".hada_w1_a"), (".lora_up.weight", ".lokr_w1"), ("lora_", "bundle_emb."),
    (".weight", ""), ("_", "."), ("lora_unet_", "diffusion_model."), (".alpha", ".dora_scale"),
    (".lora_up.weight", ".diff"), (".alpha", ".on_input"),
)  # fmt: skip
ODD_NAMES = (
    "bundle_emb.x",
    "bundle_emb.",
    "bundle_emb.a.b.c",
    "lorasmith.word.x.te",
    "emb_params",
    "clip_l",
    ".alpha",
    "alpha",
    "lora_unet_",
    "__metadata__",
)


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and numbers of a file."""
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join(header: Any, body: bytes) -> bytes:
    """A file of a header and numbers, whatever they are."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode("utf-8")
    return struct.pack("<Q", len(text)) + text + body


def damaged_tensor_file(draw: Draw, data: bytes) -> bytes:
    """A file of which a few things are wrong."""
    level = draw(
        st.sampled_from(["bytes", "length", "text", "entries", "entries", "metadata", "metadata", "numbers", "names"])
    )
    try:
        header, body = split(data)
    except (struct.error, ValueError):
        # the file is damaged already, so that it has no header
        return damaged_bytes(draw, data)
    if level == "bytes":
        return damaged_bytes(draw, data)
    if level == "length":
        claimed = draw(st.sampled_from([0, 1, 2, 1 << 20, 1 << 31, 1 << 40, (1 << 64) - 1, len(data), len(data) - 8]))
        return struct.pack("<Q", claimed) + data[8:]
    if level == "text":
        return join(odd_header_text(draw, header), body)
    if level == "metadata":
        change_metadata(draw, header)
    elif level == "names":
        rename(draw, header)
    elif level == "numbers":
        return repack(draw, header, body)
    else:
        header = damaged(draw, header) if draw(st.booleans()) else header
        change_entries(draw, header)
    return join(header, body)


def odd_header_text(draw: Draw, header: dict[str, Any]) -> bytes:
    """Headers that are not a table, or one that is there twice, nested, or in another encoding."""
    text = json.dumps(header)
    first = next(name for name in header if name != "__metadata__")
    options = (
        b"", b"null", b"[]", b"7", b'"x"', b"{", b"[" * 50_000, b'{"a":' * 5_000, text.encode("utf-16"),
        b"\xff" + text.encode(), b" " * 1000 + text.encode(), text.encode() + b" " * 1000,
        text.replace("{", '{"' + first + '": {},', 1).encode(), text.encode()[:-1], b'{"a": ' + b"9" * 5000 + b"}",
        json.dumps(header[first]).encode(),
    )  # fmt: skip
    return draw(st.sampled_from(options))


def change_metadata(draw: Draw, header: dict[str, Any]) -> None:
    """Values that the keys of metadata do not have."""
    table = header.get("__metadata__")
    if not isinstance(table, dict) or draw(st.integers(0, 9)) == 0:
        header["__metadata__"] = draw(values())
        return
    for _ in range(draw(st.integers(1, 3))):
        key = draw(st.one_of(st.sampled_from(sorted({*METADATA_KEYS, *table})), texts()))
        value = draw(st.one_of(values().map(lambda value: json.dumps(value)), texts(), values()))
        # JSON inside of JSON, damaged where it is known
        if isinstance(table.get(key), str) and table[key][:1] in "{[" and draw(st.booleans()):
            value = json.dumps(damaged(draw, json.loads(table[key])))
        table[key] = value
    if draw(st.integers(0, 1)):
        # the file stays one that the library reads, so that the values reach our code
        header["__metadata__"] = {
            str(key): value if isinstance(value, str) else json.dumps(value) for key, value in table.items()
        }


def change_entries(draw: Draw, header: Any) -> None:
    """Wrong dtypes, shapes and offsets."""
    names = [name for name in header if name != "__metadata__"] if isinstance(header, dict) else []
    if not names:
        return
    entry = header[draw(st.sampled_from(names))]
    if not isinstance(entry, dict):
        return
    field = draw(st.sampled_from(["dtype", "shape", "data_offsets"]))
    offsets = (
        [0, 0],
        [4, 0],
        [-4, 4],
        [0, 1 << 62],
        [0],
        [],
        [0, 1, 2],
        ["0", "4"],
        None,
        [0.0, 4.0],
        [1 << 40, 1 << 41],
    )
    entry[field] = draw(st.sampled_from({"dtype": DTYPES, "shape": SHAPES, "data_offsets": offsets}[field]))


def rename(draw: Draw, header: dict[str, Any]) -> None:
    """Names of other dialects, of no dialect, or of nothing."""
    names = [name for name in header if name != "__metadata__"]
    old, new = draw(st.sampled_from(NAME_PARTS))
    if draw(st.booleans()):
        for name in names:
            header[name.replace(old, new)] = header.pop(name)
        return
    for name in draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)):
        entry = header.pop(name)
        way = draw(st.sampled_from(["remove", "replace", "odd", "text", "prefix"]))
        if way != "remove":
            options = {
                "replace": name.replace(old, new),
                "odd": draw(st.sampled_from(ODD_NAMES)),
                "text": draw(texts()),
            }
            header[options.get(way, f"a.{name}")] = entry


def repack(draw: Draw, header: dict[str, Any], body: bytes) -> bytes:
    """A file that is valid as such, with tensors of other dtypes, shapes or numbers."""
    metadata = header.pop("__metadata__", None)
    names = list(header)
    chosen = set(draw(st.lists(st.sampled_from(names), min_size=1, max_size=4)))
    if draw(st.integers(0, 3)) == 0:
        chosen = set(names)
    dtype = draw(st.sampled_from(sorted(SIZES)))
    shape = draw(
        st.sampled_from([None, None, [0], [], [1], [3], [2, 2], [0, 4], [4, 0], [2, 2, 3, 3], [1, 1, 1, 1, 1], [7, 5]])
    )
    fill = draw(st.sampled_from([b"\0", b"\xff", b"\x7f\x80", b"\x00\x00\xc0\x7f", b"\x01\x02\x03\x04"]))
    entries: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    parts: list[bytes] = []
    position = 0
    for name in names:
        entry = header[name]
        part = body[slice(*entry["data_offsets"])]
        if name in chosen:
            new_shape = entry["shape"] if shape is None else shape
            count = SIZES[dtype]
            for size in new_shape:
                count *= size
            part = (fill * (count // len(fill) + 1))[:count]
            entry = {"dtype": dtype, "shape": new_shape}
        entries[name] = {**entry, "data_offsets": [position, position + len(part)]}
        parts.append(part)
        position += len(part)
    return join(entries, b"".join(parts))


def lora_case(draw: Draw, folder: Path, material: Material) -> Case:
    """One damaged file, given to a command that reads LoRAs, embeddings or base models."""
    source = draw(st.sampled_from(material.loras))
    data = source.read_bytes() if draw(st.integers(0, 20)) == 0 else damaged_tensor_file(draw, source.read_bytes())
    path = folder / "a.safetensors"
    path.write_bytes(data)
    need = 8 * len(data)
    base = ("--base", "tiny-sd")
    form = draw(st.sampled_from(["kohya", "peft", "portable", "lycoris", "diff", "bundle"]))
    commands: tuple[tuple[str, ...], ...] = (
        ("inspect", "a.safetensors"),
        ("inspect", "a.safetensors", "--json"),
        ("inspect", "a.safetensors", "--plot", "p.png"),
        ("convert", "a.safetensors", "--to", form, *base, "-o", "b.safetensors"),
        ("convert", "a.safetensors", "--to", form, "-o", "b.safetensors", "--dtype", "fp16"),
        ("resize", "a.safetensors", "--rank", "1", *base, "-o", "b.safetensors"),
        ("resize", "a.safetensors", "--energy", "0.5", "-o", "b.safetensors"),
        ("combine", "a.safetensors:0.5", str(material.run / "garp.safetensors"), *base, "-o", "b.safetensors"),
        ("merge", "tiny-sd", "a.safetensors", "-o", "model"),
        ("refit", "a.safetensors", *base, "-o", "b.safetensors", "--rank", "2"),
        ("convert", str(material.loras[0]), "--to", "bundle", "--word", "a.safetensors", *base, "-o", "b.safetensors"),
        ("inspect", "a.safetensors"),
    )
    rare = draw(st.integers(0, 39))
    if rare < 4:
        config = folder / "c.json"
        table = material.config
        key = ("start", "base", "vae", "merge")[rare]
        table[key] = [str(path)] if key == "merge" else str(path)
        config.write_text(json.dumps(table), encoding="utf-8")
        return Case(("check", "c.json"), need + (64 << 20))
    if rare == 4:
        way = draw(st.sampled_from(["--lora", "--embedding"]))
        sample = ("sample", *base, way, "a.safetensors", "-p", "garp a", "--steps", "1", "-o", "out")
        return Case(sample, need + (128 << 20), 3.0)
    command = draw(st.sampled_from(commands))
    slow = {"refit": 20.0, "merge": 3.0}.get(command[0], 0.0)
    return Case(command, need + (64 << 20), slow)
