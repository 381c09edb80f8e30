"""Options of training length, precision, speed and memory."""

from lorasmith.compat.options import Option

ATTENTION = "torch's fused attention is always used"
FP32 = "adapters stay in float32, so that small updates are not lost"
FP8 = "it only saves memory; the base keeps its own, higher precision"
DEEPSPEED = "a LoRA's optimizer states are small, so there is nothing to distribute or offload"
WITH_DEEPSPEED = "belongs to deepspeed, which has no effect here"
DDP = "gradients of adapters are small"

OPTIONS = (
    # Length
    Option("max_train_steps", "int", 1600, to="steps"),
    Option(
        "max_train_epochs",
        "int",
        to="epochs",
        state="improved",
        note="an epoch uses each image exactly as often as its repeats say",
    ),
    Option("gradient_accumulation_steps", "int", 1, to="accumulation"),
    Option("gradient_checkpointing", to="gradient_checkpointing"),
    Option(
        "seed",
        "int",
        to="seed",
        state="improved",
        note="determines the run completely, whatever the number of workers",
    ),
    # Precision
    Option("mixed_precision", "text", "no", to="precision", choices=("no", "fp16", "bf16")),
    Option("full_fp16", to="precision", state="improved", note=FP32),
    Option("full_bf16", to="precision", state="improved", note=FP32),
    Option("fp8_base", state="no_effect", note=FP8),
    Option("fp8_base_unet", state="no_effect", note=FP8),
    # Speed and memory
    Option("xformers", state="no_effect", note=ATTENTION),
    Option("sdpa", state="no_effect", note=ATTENTION),
    Option("mem_eff_attn", state="no_effect", note=ATTENTION),
    Option("torch_compile", state="no_effect", note="complete steps are captured as CUDA graphs where possible"),
    Option("dynamo_backend", "text", "inductor", state="no_effect", note="is used with torch_compile only"),
    Option("cpu_offload_checkpointing", state="no_effect", note="a way to save memory that crashes in the original"),
    Option(
        "max_data_loader_n_workers",
        "int",
        8,
        to="data.workers",
        state="improved",
        note="results do not depend on it, and every epoch is complete",
    ),
    Option("persistent_data_loader_workers", state="no_effect", note="workers always persist"),
    Option("highvram", state="no_effect", note="memory is never cleared unnecessarily"),
    # Distributed training
    Option("ddp_timeout", "int", state="no_effect", note=DDP),
    Option("ddp_gradient_as_bucket_view", state="no_effect", note=DDP),
    Option("ddp_static_graph", state="no_effect", note=DDP),
    Option("deepspeed", state="no_effect", note=DEEPSPEED),
    Option("zero_stage", "int", 2, state="no_effect", note=WITH_DEEPSPEED),
    Option("offload_optimizer_device", "text", state="no_effect", note=WITH_DEEPSPEED),
    Option("offload_optimizer_nvme_path", "text", state="no_effect", note=WITH_DEEPSPEED),
    Option("offload_param_device", "text", state="no_effect", note=WITH_DEEPSPEED),
    Option("offload_param_nvme_path", "text", state="no_effect", note=WITH_DEEPSPEED),
    Option("zero3_init_flag", state="no_effect", note=WITH_DEEPSPEED),
    Option("zero3_save_16bit_model", state="no_effect", note=WITH_DEEPSPEED),
    Option("fp16_master_weights_and_gradients", state="no_effect", note=WITH_DEEPSPEED),
)
