"""Reading `.safetensors`: exact in every dtype, and clear about what is wrong with a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lorasmith.core.errors import LorasmithError
from lorasmith.families import reader


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
@pytest.mark.parametrize("wanted", [None, torch.float32, torch.bfloat16, torch.float16])
def test_values_are_those_of_the_file(
    stored: torch.dtype, wanted: torch.dtype | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "_STAGING_BYTES", 64)  # many chunks, the last one short
    tensors = {
        "a": torch.randn(7, 5, 3).to(stored),
        "scalar": torch.tensor(1.5).to(stored),
        "empty": torch.zeros(0, 3).to(stored),
        "ids": torch.arange(5),
    }
    save_file(tensors, tmp_path / "x.safetensors", {"note": "hello"})
    refs, metadata = reader.read_header(tmp_path / "x.safetensors")
    assert metadata == {"note": "hello"}
    with reader.Reader() as read:
        for name, value in tensors.items():
            expected = value if wanted is None or name == "ids" else value.to(wanted)
            found = read.read(refs[name], wanted)
            assert found.dtype == expected.dtype
            assert found.shape == expected.shape
            assert torch.equal(found.float(), expected.float())


def test_a_device_other_than_the_cpu_gets_the_wanted_dtype(tmp_path: Path) -> None:
    save_file({"a": torch.ones(3, 2, dtype=torch.float16)}, tmp_path / "a.safetensors")
    refs, _ = reader.read_header(tmp_path / "a.safetensors")
    with reader.Reader() as read:
        found = read.read(refs["a"], torch.bfloat16, "meta")
    assert (found.dtype, found.shape, found.device.type) == (torch.bfloat16, (3, 2), "meta")


def test_rows_views_and_transposes(tmp_path: Path) -> None:
    value = torch.randn(6, 4)
    save_file({"a": value}, tmp_path / "x.safetensors")
    ref = reader.read_header(tmp_path / "x.safetensors")[0]["a"]
    turned = reader.TensorRef(ref.path, ref.dtype, ref.shape, ref.offset, transposed=True)
    with reader.Reader() as read:
        assert torch.equal(read.read(ref.rows(2, 4)), value[2:4])
        assert torch.equal(read.read(ref.view(3, 8)), value.view(3, 8))
        assert torch.equal(read.read(turned), value.T)
        assert torch.equal(read.read(ref.with_halves_swapped()), torch.cat([value[3:], value[:3]]))


@pytest.mark.parametrize("factors", [torch.tensor(0.25), torch.tensor([0.5]), torch.rand(6, 1)])
def test_fp8_is_multiplied_by_its_scale(factors: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_STAGING_BYTES", 64)
    stored = torch.randn(6, 4).to(torch.float8_e4m3fn)
    save_file({"a": stored, "scale": factors, "wrong": torch.ones(5)}, tmp_path / "x.safetensors")
    refs, _ = reader.read_header(tmp_path / "x.safetensors")
    ref = refs["a"].with_scale(refs["scale"])
    exact = stored.float() * factors
    with reader.Reader() as read:
        assert torch.equal(read.read(ref), exact)
        assert torch.equal(read.read(ref, torch.bfloat16), exact.bfloat16())
        assert torch.equal(read.read(ref.rows(2, 5), torch.float32), exact[2:5])
    with pytest.raises(LorasmithError, match="a scale of 5 numbers for a weight of 6 rows"):
        refs["a"].with_scale(refs["wrong"])


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.randn(100)}, path)
    whole = path.read_bytes()
    for length, words in {len(whole) - 1: "cut off", 20: "cut off inside its header", 3: "not a .safetensors"}.items():
        path.write_bytes(whole[:length])
        with pytest.raises(LorasmithError, match=words) as error:
            reader.read_header(path)
        assert str(path) in str(error.value)


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04" + b"\0" * 100, b"\x08" + b"\0" * 7 + b"nonsense", b"<html>" * 50, b"\x80\x02" * 60]
)
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(LorasmithError, match=r"not a \.safetensors"):
        reader.read_header(path)


def test_fill_never_leaves_a_weight_out(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = nn.Linear(3, 2)
    path = tmp_path / "x.safetensors"
    save_file({"weight": torch.ones(2, 3), "bais": torch.ones(2)}, path)
    with pytest.raises(
        LorasmithError, match=r'1 of 2 weights are missing \(bias\); did you mean "bais"\?; 1 are unknown'
    ):
        reader.fill(model, reader.read_header(path)[0], torch.float32, "cpu", "model", str(path))
    save_file({"weight": torch.ones(2, 3), "bias": torch.ones(3)}, path)
    with pytest.raises(LorasmithError, match=r"bias is \[3\], expected \[2\]"):
        reader.fill(model, reader.read_header(path)[0], torch.float32, "cpu", "model", str(path))
    save_file({"weight": torch.ones(2, 3), "bias": torch.ones(2)}, path)
    reader.fill(model, reader.read_header(path)[0], torch.bfloat16, "cpu", "model", str(path))
    assert model.bias.dtype == torch.bfloat16
    assert not model.weight.requires_grad


def test_digest_sees_names_shapes_and_bytes(tmp_path: Path) -> None:
    value = torch.arange(6.0)

    def digest(tensors: dict[str, torch.Tensor]) -> str:
        save_file(tensors, tmp_path / "x.safetensors")
        return reader.digest(reader.read_header(tmp_path / "x.safetensors")[0])

    seen = [digest(t) for t in ({"a": value}, {"b": value}, {"a": value.view(2, 3)}, {"a": value + 1}, {"a": value})]
    assert len(set(seen)) == 4
    assert seen[0] == seen[-1]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused_with_tensor_and_file(value: float, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    weight = torch.ones(4, 3)
    weight[1, 2] = value
    save_file({"weight": weight, "bias": torch.zeros(4)}, path)
    with torch.device("meta"):
        module = torch.nn.Linear(3, 4)
    with pytest.raises(LorasmithError, match=r"model\.safetensors: the UNet has NaN or infinite .* \(weight\)"):
        reader.fill(module, reader.read_header(path)[0], torch.bfloat16, "cpu", "UNet", "model")


def test_numbers_that_only_the_precision_cannot_hold_are_not_blamed_on_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.full((4, 3), 1e6), "bias": torch.zeros(4)}, path)
    with torch.device("meta"):
        module = torch.nn.Linear(3, 4)
    with pytest.raises(
        LorasmithError, match=r"weight of the UNet has numbers up to 1e\+06, which (fp16|float16) cannot"
    ):
        reader.fill(module, reader.read_header(path)[0], torch.float16, "cpu", "UNet", "model")
    reader.fill(module, reader.read_header(path)[0], torch.bfloat16, "cpu", "UNet", "model")


@pytest.mark.parametrize(
    "header",
    [
        '{"__metadata__": null}',
        '{"__metadata__": {"a": 1}}',
        '{"__metadata__": []}',
        "[" * 60_000,
        '{"a": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}}',
        '{"a": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}}',
        '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}',
        '{"a": {"dtype": "F32", "shape": [true], "data_offsets": [0, 4]}}',
        '{"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}',
        '{"a": 7}',
        "null",
    ],
)
def test_a_header_of_other_types_is_refused(header: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(16))
    with pytest.raises(LorasmithError, match=r"not a \.safetensors file"):
        reader.read_header(path)
