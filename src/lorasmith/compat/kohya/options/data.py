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
"""The original's names of resize filters to ours."""

CONTENT_ADDRESSED = "cache entries are found by the image's content, the VAE and the size, so they are never stale"
TEXT_CACHE = "text encoder outputs are cached automatically if captions and text encoder do not change"

OPTIONS = (
    # Where the images are
    Option("train_data_dir", "text", to="data.subsets"),
    Option("reg_data_dir", "text", to="data.subsets"),
    Option("in_json", "text", to="data.subsets"),
    Option("dataset_config", "text", to="data"),
    Option(
        "dataset_class",
        "text",
        state="refused",
        note="describe the data with dataset_config or a metadata file instead",
    ),
    Option("dataset_repeats", "int", 1, to="data.subsets.repeats"),
    Option("resolution", "text", to="data.resolution"),
    Option(
        "skip_image_resolution",
        "text",
        to="data.subsets.larger_than",
        state="improved",
        note="the images that are left out are counted and named by `check`",
    ),
    Option(
        "train_inpainting",
        state="refused",
        note="a LoRA for inpainting models cannot be trained here; without this option an ordinary one is trained",
    ),
    Option("train_batch_size", "int", 1, to="data.batch_size"),
    # Buckets
    Option("enable_bucket", to="data.buckets.enabled"),
    Option("min_bucket_reso", "int", 256, to="data.buckets.min"),
    Option("max_bucket_reso", "int", 1024, to="data.buckets.max"),
    Option("bucket_reso_steps", "int", 64, to="data.buckets.step"),
    Option(
        "bucket_no_upscale",
        to="data.buckets.upscale",
        state="improved",
        note="a very small image never gets a bucket of size 0",
    ),
    # Changes of images
    Option(
        "resize_interpolation",
        "text",
        to="data.subsets.resize",
        choices=tuple(INTERPOLATIONS),
        state="improved",
        note="when shrinking, every filter except nearest uses all pixels",
    ),
    Option(
        "color_aug",
        to="data.subsets.transforms",
        state="improved",
        note="brightness is changed by a power of values in 0..1, which does not clip; works with cache_latents, which "
        "the original refuses (images are then encoded again in each step)",
    ),
    Option(
        "flip_aug",
        to="data.subsets.transforms",
        state="improved",
        note="drawn independently for each view of an image, also with several workers",
    ),
    Option(
        "random_crop",
        to="data.subsets.transforms",
        state="improved",
        note="chooses among a fixed number of positions, so that latents can be cached",
    ),
    Option(
        "face_crop_aug_range",
        "text",
        to="data.subsets.transforms",
        state="improved",
        note="also works with buckets; chooses among a fixed number of crops, so that latents can be cached",
    ),
    # Masks and weights
    Option(
        "alpha_mask",
        to="data.subsets.masks",
        state="improved",
        note="no mask remains in the cache when the option is switched off",
    ),
    Option(
        "masked_loss",
        to="data.subsets.masks, objective.mask_mean",
        note="averaged over the whole image, as in the original; "
        'objective.mask_mean = "mask" averages over the mask instead',
    ),
    Option(
        "conditioning_data_dir",
        "text",
        to="data.subsets.masks",
        state="improved",
        note="the folder of masks for masked_loss; the original reads it in dataset_config only",
    ),
    Option("prior_loss_weight", "float", 1.0, to="data.subsets.loss_weight"),
    # Reading and caching
    Option("cache_info", state="no_effect", note="sizes and captions are read quickly and are never mixed up"),
    Option(
        "debug_dataset",
        state="improved",
        note="writes the first batches to an image, `output_dir/output_name-dataset.jpg`, instead of opening windows; "
        "nothing is trained",
    ),
    Option(
        "cache_latents",
        to="data.cache_latents",
        state="improved",
        note="latents are always cached unless another option makes that impossible",
    ),
    Option("cache_latents_to_disk", to="data.cache_latents", state="improved", note=CONTENT_ADDRESSED),
    Option(
        "vae_batch_size",
        "int",
        1,
        state="no_effect",
        note="latents are computed once; batches of one need the least memory",
    ),
    Option("skip_cache_check", state="no_effect", note=CONTENT_ADDRESSED),
)
SDXL_OPTIONS = (
    Option("cache_text_encoder_outputs", state="no_effect", note=TEXT_CACHE),
    Option("cache_text_encoder_outputs_to_disk", state="no_effect", note=TEXT_CACHE),
    Option("disable_mmap_load_safetensors", state="no_effect", note="files are read tensor by tensor"),
)
"""Options that only the SDXL scripts have."""
