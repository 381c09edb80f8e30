"""Steps per second of SD 1.5 LoRA training on one GPU, ours beside PEFT on diffusers' UNet, in one run.

    python benchmarks/gpu_step.py --out figures.json

A full-size base with random weights, 512 px, bf16, rank 16 on the attention layers, latents and texts cached. Ours runs
eager and as CUDA graphs; the peer under autocast with float32 adapters, as the diffusers examples do. Prints medians of
the time per step, images per second, peak memory, and the share of a measured bf16 matrix product that 1.7245 TFLOP an
image stand for.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

TFLOP_PER_IMAGE = 1.7245
IMAGES = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/gpu_step"))
    parser.add_argument("--out", type=Path, default=Path("gpu_step.json"))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--profile", type=int, default=4, help="batch size to list the heaviest kernels of; 0: none")
    options = parser.parse_args()
    base, images = material(options.work)
    peak = matmul_tflops()
    figures: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "matmul": peak}
    print(json.dumps(figures), flush=True)
    for batch in options.batches:
        for name in options.cases:
            try:
                row = timed(CASES[name](base, images, batch, options.work), batch, options.steps, peak)
            except Exception as error:  # one case that fails must not lose the figures of the others
                row = {"error": f"{type(error).__name__}: {error}"}
            figures[f"{name} b{batch}"] = row
            print(f"{name} b{batch}: {json.dumps(row)}", flush=True)
            options.out.write_text(json.dumps(figures, indent=1))
    if options.profile:
        figures["kernels"] = heaviest(ours_eager(base, images, options.profile, options.work))
        print(json.dumps(figures["kernels"], indent=1), flush=True)
        options.out.write_text(json.dumps(figures, indent=1))


def material(work: Path) -> tuple[Path, Path]:
    """A random full-size base and images of noise, made once."""
    base, images = work / "base", work / "images"
    if not (base / "model_index.json").is_file():
        script = Path(__file__).parent.parent / "tools" / "make_random_sd.py"
        subprocess.run([sys.executable, str(script), str(base), "--folder"], check=True)
    if not images.is_dir():
        images.mkdir(parents=True)
        generator = torch.Generator().manual_seed(0)
        for i in range(IMAGES):
            pixels = torch.randint(0, 256, (512, 512, 3), generator=generator, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(images / f"{i:02d}.png")
            (images / f"{i:02d}.txt").write_text(f"a photo of thing {i}")
    return base, images


def matmul_tflops() -> float:
    """TFLOP/s of an 8192^3 bf16 product."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    times = []
    for _ in range(20):
        torch.cuda.synchronize()
        started = time.perf_counter()
        a @ b
        torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return 2 * 8192**3 / statistics.median(times) / 1e12


def timed(step: Callable[[], object], batch: int, steps: int, peak: float) -> dict[str, float]:
    """Median and extremes of the time of a step, and peak memory, after warm-up."""
    for _ in range(6):
        step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(4):  # parts of the run, not single steps: a step must not wait for the one before
        started = time.perf_counter()
        for _ in range(steps // 4):
            step()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - started) / (steps // 4))
    median = statistics.median(times)
    return {
        "ms": round(1e3 * median, 2),
        "ms_min": round(1e3 * min(times), 2),
        "ms_max": round(1e3 * max(times), 2),
        "img_s": round(batch / median, 2),
        "share_of_matmul": round(batch / median * TFLOP_PER_IMAGE / peak, 4),
        "allocated_gib": round(torch.cuda.max_memory_allocated() / 2**30, 3),
        "reserved_gib": round(torch.cuda.max_memory_reserved() / 2**30, 3),
    }


def ours(base: Path, images: Path, batch: int, work: Path, graph: bool) -> Callable[[], object]:
    """Our step, built as the command builds it."""
    from lorasmith.training.config import load_config
    from lorasmith.training.setup.build import build_run
    from lorasmith.training.step.loop import remaining_steps, train_step

    free()
    shutil.rmtree(work / "run", ignore_errors=True)
    table = {
        "base": str(base),
        "output": str(work / "run"),
        "steps": 10_000,
        "cuda_graph": graph,
        "data": {"images": str(images), "resolution": 512, "batch_size": batch, "cache_dir": str(work / "cache")},
        "adapter": {"kind": "lora", "rank": 16, "layers": "attention"},
        "precision": "bf16",
        "log": {"tensorboard": False},
    }
    run = build_run(load_config(table))
    run.adapters.train()
    steps = remaining_steps(run)
    return lambda: train_step(run, *next(steps))


def ours_eager(base: Path, images: Path, batch: int, work: Path) -> Callable[[], object]:
    return ours(base, images, batch, work, graph=False)


def ours_graph(base: Path, images: Path, batch: int, work: Path) -> Callable[[], object]:
    return ours(base, images, batch, work, graph=True)


def peer(base: Path, images: Path, batch: int, work: Path) -> Callable[[], object]:
    """PEFT on diffusers' UNet under autocast with float32 adapters; its data are resident too."""
    from diffusers import DDPMScheduler, UNet2DConditionModel
    from diffusers.training_utils import cast_training_params
    from peft import LoraConfig

    free()
    unet = UNet2DConditionModel.from_pretrained(base / "unet", torch_dtype=torch.bfloat16).to("cuda")
    unet.requires_grad_(False)
    targets = ["to_k", "to_q", "to_v", "to_out.0"]
    unet.add_adapter(LoraConfig(r=16, lora_alpha=16, init_lora_weights="gaussian", target_modules=targets))
    cast_training_params(unet, dtype=torch.float32)
    parameters = [p for p in unet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    latents = torch.randn(batch, 4, 64, 64, device="cuda", dtype=torch.bfloat16)
    text = torch.randn(batch, 77, 768, device="cuda", dtype=torch.bfloat16)

    def step() -> None:
        noise = torch.randn_like(latents)
        t = torch.randint(0, 1000, (batch,), device="cuda")
        with torch.autocast("cuda", torch.bfloat16):
            output = unet(scheduler.add_noise(latents, noise, t), t, text, return_dict=False)[0]
        loss = torch.nn.functional.mse_loss(output.float(), noise.float())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def free() -> None:
    """Give back what an earlier case held."""
    import gc

    gc.collect()
    torch.cuda.empty_cache()


def heaviest(step: Callable[[], object]) -> dict[str, Any]:
    """Kernels a step, time of the ten heaviest and of all, microseconds."""
    for _ in range(4):
        step()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(3):
            step()
        torch.cuda.synchronize()
    rows = sorted(profile.key_averages(), key=lambda e: -e.self_device_time_total)
    kernels = [e for e in rows if e.self_device_time_total > 0]
    return {
        "launches_a_step": sum(e.count for e in kernels) / 3,
        "device_us_a_step": round(sum(e.self_device_time_total for e in kernels) / 3),
        "ten": {e.key[:110]: [e.count // 3, round(e.self_device_time_total / 3)] for e in kernels[:10]},
    }


CASES: dict[str, Callable[[Path, Path, int, Path], Callable[[], object]]] = {
    "ours eager": ours_eager,
    "ours graph": ours_graph,
    "peft autocast": peer,
}

if __name__ == "__main__":
    main()
