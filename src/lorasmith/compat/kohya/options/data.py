"""Options of images, buckets and caches."""

from lorasmith.compat.options import Option

INTERPOLATIONS = {
    "lanczos": "lanczos",
    "nearest": "nearest",
    "bilinear": "bilinear",
    "linear": "bilinear",
    "bicubic": "bicubic",
    "cubic": "bicubic",
    "area": "area",
    "box": "area",
}
"""The original's names to ours."""
ADDRESSED = "entries are found by the content of image and VAE and by the size, so none is ever stale"
TEXTS = "texts are cached by themselves where nothing about them changes"

OPTIONS = (
    Option("train_data_dir", "text", None, to="data.subsets"),
    Option("reg_data_dir", "text", None, to="data.subsets"),
    Option("in_json", "text", None, to="data.subsets"),
    Option("dataset_config", "text", None, to="data"),
    Option("dataset_class", "text", None, "refused", "describe the data with dataset_config or metadata"),
    Option("dataset_repeats", "int", 1, to="data.subsets.repeats"),
    Option("resolution", "text", None, to="data.resolution"),
    Option("train_batch_size", "int", 1, to="data.batch_size"),
    Option("enable_bucket", to="data.buckets.enabled"),
    Option("min_bucket_reso", "int", 256, to="data.buckets.min"),
    Option("max_bucket_reso", "int", 1024, to="data.buckets.max"),
    Option("bucket_reso_steps", "int", 64, to="data.buckets.step"),
    Option(
        "bucket_no_upscale",
        "flag",
        None,
        "better",
        "a tiny image never gets a bucket of size 0",
        "data.buckets.upscale",
    ),
    Option(
        "resize_interpolation",
        "text",
        None,
        "better",
        "every filter but nearest looks at all pixels when it shrinks",
        "data.subsets.resize",
        choices=tuple(INTERPOLATIONS),
    ),
    Option(
        "color_aug",
        "flag",
        None,
        "better",
        "brightness is a power of values up to 1, which does not clip; with cache_latents, which the original refuses, "
        "images are encoded anew in each step",
        "data.subsets.transforms",
    ),
    Option(
        "flip_aug",
        "flag",
        None,
        "better",
        "each view draws its own, also with several workers",
        "data.subsets.transforms",
    ),
    Option(
        "random_crop",
        "flag",
        None,
        "better",
        "a fixed number of places, so that latents are cached",
        "data.subsets.transforms",
    ),
    Option(
        "face_crop_aug_range",
        "text",
        None,
        "better",
        "with buckets too; a fixed number of crops, so that latents are cached",
        "data.subsets.transforms",
    ),
    Option("alpha_mask", "flag", None, "better", "switching it off forgets the mask", "data.subsets.masks"),
    Option(
        "masked_loss",
        note='averaged over the whole image, as there; objective.mask_mean = "mask" averages over the mask',
        to="data.subsets.masks, objective.mask_mean",
    ),
    Option(
        "conditioning_data_dir",
        "text",
        None,
        "better",
        "with masked_loss it is the folder of masks; the original reads it in dataset_config alone",
        "data.subsets.masks",
    ),
    Option("prior_loss_weight", "float", 1.0, to="data.subsets.loss_weight"),
    Option("cache_info", state="pointless", note="sizes and captions are read quickly, and never mixed up"),
    Option(
        "debug_dataset",
        "flag",
        None,
        "better",
        "in place of windows a picture of the first batches, `output_dir/output_name-dataset.jpg`; nothing is trained",
    ),
    Option(
        "cache_latents",
        "flag",
        None,
        "better",
        "latents are always cached where nothing forbids it",
        "data.cache_latents",
    ),
    Option("cache_latents_to_disk", "flag", None, "better", ADDRESSED, "data.cache_latents"),
    Option("vae_batch_size", "int", 1, "pointless", "latents are made once; a batch of one needs the least memory"),
    Option("skip_cache_check", state="pointless", note=ADDRESSED),
)
SDXL = (
    Option("cache_text_encoder_outputs", state="pointless", note=TEXTS),
    Option("cache_text_encoder_outputs_to_disk", state="pointless", note=TEXTS),
    Option("disable_mmap_load_safetensors", state="pointless", note="files are read tensor by tensor"),
)
