"""A training step of a full-size SD 1.5 on one CPU thread: CPU-seconds and peak memory, as ratios to peers.

    python benchmarks/full_size_step.py [--steps 4] [--dtypes bfloat16 float32] [--peer] [--base FOLDER]

256 px (32 x 32 latents), batch 1, LoRA rank 8 on all linears and 1x1 convolutions of the transformer blocks, AdamW,
everything cached. The weights are random (tools/make_random_sd.py). `--peer` also runs PEFT's LoRA on diffusers' UNet,
in the same run and on the same layers. CPU time, not wall time: other work on the machine hardly moves it. Only ratios
within one run hold on every processor: some multiply bf16 twice as fast as float32, others (Intel's AVX512_BF16 without
AMX) half as fast.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

KOHYA = {
    "bfloat16": {"cpu_s": 3.68, "load_mb": 7754, "steps_mb": 3454},
    "float32": {"cpu_s": 6.20, "load_mb": 7755, "steps_mb": 5698},
}
"""sd-scripts 0.10.1 on the same kind of machine, model and layers (its text encoder ran too, about 3 % of the work)."""
RANK = 8


def memory_mb(key: str) -> float:
    """`VmHWM` (peak) or `VmRSS` (now) of this process, MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def forget_peak() -> None:
    """Start the peak anew from what is used now."""
    Path("/proc/self/clear_refs").write_text("5")


def ours(base: str, dtype: str) -> tuple[Any, list[Any]]:
    """(x_t, t, context) -> prediction, and what is trained."""
    import torch

    from lorasmith.adapters.attach import AdapterSet
    from lorasmith.adapters.lora import LoRA
    from lorasmith.families.base import Conditioning
    from lorasmith.families.load import load

    family = load(base, dtype=getattr(torch, dtype))
    layers = family.named_layers(["unet"])
    adapters = AdapterSet.create(
        LoRA.model_validate({"rank": RANK, "layers": "attention-mlp"}), layers, family.layer_presets, seed=0
    ).attach()
    adapters.train()
    return lambda x, t, context: family.predict(x, t, Conditioning({"context": context})), adapters.parameters()


def peft_on_diffusers(base: str, dtype: str) -> tuple[Any, list[Any]]:
    """The same with diffusers' UNet and PEFT, adapters in float32."""
    import torch
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from peft import LoraConfig, inject_adapter_in_model

    unet: Any = UNet2DConditionModel.from_pretrained(f"{base}/unet", torch_dtype=getattr(torch, dtype))
    unet.requires_grad_(False)
    words = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"]
    inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=words), unet)
    trained = [p for p in unet.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.float()
    low = getattr(torch, dtype)
    return lambda x, t, context: unet(x.to(low), t, context.to(low)).sample.float(), trained


def measure(who: str, base: str, dtype: str, steps: int) -> dict[str, Any]:
    """Load, then `steps` + 1 steps, of which the first is not counted."""
    import torch

    torch.set_num_threads(1)
    predict, parameters = {"ours": ours, "peft": peft_on_diffusers}[who](base, dtype)
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(1, 4, 32, 32, generator=generator) for _ in range(2))
    context = torch.randn(1, 77, 768, generator=generator)
    seconds: list[float] = []
    loaded, loss = 0.0, x.sum()
    for step in range(steps + 1):
        start = time.process_time()
        loss = (predict(x, torch.tensor([500]), context) - noise).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.process_time() - start)
        if step == 0:
            loaded = memory_mb("VmHWM")
            forget_peak()
    seconds = seconds[1:]
    return {
        "cpu_s": statistics.median(seconds),
        "min_s": min(seconds),
        "load_mb": loaded,
        "steps_mb": memory_mb("VmHWM"),
        "loss": loss.item(),
        "trained": sum(p.numel() for p in parameters),
    }


def in_a_process_of_its_own(who: str, base: str, dtype: str, steps: int) -> dict[str, Any]:
    """`measure`, so that memory and caches are its own."""
    command = [sys.executable, __file__, "--measure", who, "--base", base, "--dtypes", dtype, "--steps", str(steps)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def report(base: str, dtypes: list[str], steps: int, peer: bool) -> None:
    """Print one line for each run, with ratios to kohya's figures."""
    load = os.getloadavg()[0]
    print(
        f"SD 1.5 full size, 256 px, batch 1, LoRA rank {RANK}, {steps} steps after the first; load average {load:.1f}"
    )
    for dtype in dtypes:
        known = KOHYA[dtype]
        print(
            f"{dtype:9} kohya  {known['cpu_s']:5.2f} CPU-s/step, {known['load_mb']:5.0f} / {known['steps_mb']:5.0f} MB"
        )
        seconds: dict[str, float] = {}
        for who in ["ours", *(["peft"] if peer else [])]:
            found = in_a_process_of_its_own(who, base, dtype, steps)
            seconds[who] = found["cpu_s"]
            ratios = {key: found[key] / known[key] for key in known}
            print(
                f"{dtype:9} {who:6} {found['cpu_s']:5.2f} CPU-s/step (least {found['min_s']:.2f}), "
                f"{found['load_mb']:5.0f} / {found['steps_mb']:5.0f} MB load / steps; to kohya: "
                f"{ratios['cpu_s']:.2f}x time, {ratios['load_mb']:.2f}x / {ratios['steps_mb']:.2f}x memory"
            )
        if peer:
            print(f"{dtype:9} ours / peft in this run: {seconds['ours'] / seconds['peft']:.2f}x time")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--base", help="diffusers folder of a full-size SD 1.5; default: a random one, made for the run"
    )
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--dtypes", nargs="+", choices=list(KOHYA), default=list(KOHYA))
    parser.add_argument("--peer", action="store_true", help="also run PEFT on diffusers")
    parser.add_argument("--measure", choices=["ours", "peft"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args.base, args.dtypes[0], args.steps)))
    elif args.base:
        report(args.base, args.dtypes, args.steps, args.peer)
    else:
        with tempfile.TemporaryDirectory() as folder:
            tool = Path(__file__).parents[1] / "tools" / "make_random_sd.py"
            subprocess.run([sys.executable, str(tool), f"{folder}/base"], check=True)
            report(f"{folder}/base", args.dtypes, args.steps, args.peer)


if __name__ == "__main__":
    main()
