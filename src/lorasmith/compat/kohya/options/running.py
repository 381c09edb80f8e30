"""Options of steps, precision, speed and memory."""

from lorasmith.compat.options import Option

ATTENTION = "torch's fused attention is always used"
FP32 = "adapters stay in float32, in which small updates are not lost"
FP8 = "saves memory only; the base stays in its precision, nearer to the truth"
DEEPSPEED = "a LoRA's optimizer states are small, so there is nothing to spread or to offload"
WITH_DEEPSPEED = "belongs to deepspeed, which is pointless here"
DDP = "gradients of adapters are small"

OPTIONS = (
    Option("max_train_steps", "int", 1600, to="steps"),
    Option(
        "max_train_epochs", "int", None, "better", "an epoch sees each image exactly as often as it should", "epochs"
    ),
    Option("gradient_accumulation_steps", "int", 1, to="accumulation"),
    Option("gradient_checkpointing", to="gradient_checkpointing"),
    Option("mixed_precision", "text", "no", to="precision", choices=("no", "fp16", "bf16")),
    Option("full_fp16", "flag", None, "better", FP32, "precision"),
    Option("full_bf16", "flag", None, "better", FP32, "precision"),
    Option("fp8_base", state="pointless", note=FP8),
    Option("fp8_base_unet", state="pointless", note=FP8),
    Option("xformers", state="pointless", note=ATTENTION),
    Option("sdpa", state="pointless", note=ATTENTION),
    Option("mem_eff_attn", state="pointless", note=ATTENTION),
    Option("torch_compile", state="pointless", note="whole steps are captured as CUDA graphs where that is possible"),
    Option("dynamo_backend", "text", "inductor", "pointless", "counts with torch_compile only"),
    Option("cpu_offload_checkpointing", state="pointless", note="a memory saver that crashes in the original"),
    Option(
        "max_data_loader_n_workers",
        "int",
        8,
        "better",
        "results do not depend on it; each epoch is exact",
        "data.workers",
    ),
    Option("persistent_data_loader_workers", state="pointless", note="workers always persist"),
    Option("highvram", state="pointless", note="memory is not cleared needlessly"),
    Option("seed", "int", None, "better", "the seed decides all of a run, whatever the number of workers", "seed"),
    Option("ddp_timeout", "int", None, "pointless", DDP),
    Option("ddp_gradient_as_bucket_view", state="pointless", note=DDP),
    Option("ddp_static_graph", state="pointless", note=DDP),
    Option("deepspeed", state="pointless", note=DEEPSPEED),
    Option("zero_stage", "int", 2, "pointless", WITH_DEEPSPEED),
    Option("offload_optimizer_device", "text", None, "pointless", WITH_DEEPSPEED),
    Option("offload_optimizer_nvme_path", "text", None, "pointless", WITH_DEEPSPEED),
    Option("offload_param_device", "text", None, "pointless", WITH_DEEPSPEED),
    Option("offload_param_nvme_path", "text", None, "pointless", WITH_DEEPSPEED),
    Option("zero3_init_flag", state="pointless", note=WITH_DEEPSPEED),
    Option("zero3_save_16bit_model", state="pointless", note=WITH_DEEPSPEED),
    Option("fp16_master_weights_and_gradients", state="pointless", note=WITH_DEEPSPEED),
)
