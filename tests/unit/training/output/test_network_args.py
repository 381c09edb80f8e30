"""`ss_network_args`: the arguments by which sd-scripts and LyCORIS would make the same network."""

from __future__ import annotations

from typing import Any

import pytest

from lorasmith.adapters import AdapterConfig
from lorasmith.compat.kohya.blocks import sd_blocks
from lorasmith.compat.kohya.network import MODULES, convert_network
from lorasmith.core.registry import registered
from lorasmith.training.output.network_args import network_args

LYCORIS = "lycoris.kohya"


@pytest.mark.parametrize(
    ("module", "given"),
    [
        ("networks.lora", {}),
        ("networks.lora", {"conv_dim": "2", "conv_alpha": "0.5", "rank_dropout": "0.1", "module_dropout": "0.2"}),
        ("networks.dylora", {"unit": "2"}),
        (LYCORIS, {"algo": "lokr", "factor": "8", "full_matrix": "True", "decompose_both": "True"}),
        (LYCORIS, {"algo": "loha", "use_tucker": "True", "train_norm": "True"}),
        (LYCORIS, {"algo": "diag-oft", "constraint": "0.5"}),
        (LYCORIS, {"algo": "lora", "dora_wd": "True", "wd_on_output": "True"}),
        (LYCORIS, {"algo": "ia3"}),
    ],
)
def test_what_was_given_is_written_again(module: str, given: dict[str, str]) -> None:
    values: dict[str, Any] = {
        "network_module": module,
        "network_args": [f"{name}={value}" for name, value in given.items()],
        "network_dim": 8,
        "network_alpha": 4.0,
        "network_dropout": 0.1,
        "scale_weight_norms": None,
        "network_train_unet_only": False,
        "network_train_text_encoder_only": False,
    }
    problems: list[Any] = []
    table = convert_network(values, MODULES, sd_blocks(), [], problems)
    assert not problems
    config: Any = registered(AdapterConfig)[table["kind"]]
    table = {key: value for key, value in table.items() if value is not None and key in config.model_fields}
    written = network_args(config(**table))
    assert given.items() <= written.items()
    assert written["dropout"] == (0.1 if "dropout" in table else None)
    # what was not given is what the module does without it
    assert written.keys() - given.keys() <= {"dropout", "algo", "conv_dim", "conv_alpha", "block_size", "wd_on_output"}


def test_settings_at_their_defaults_are_not_written() -> None:
    from lorasmith.adapters.lora import LoRA

    assert network_args(LoRA()) == {"dropout": None}
