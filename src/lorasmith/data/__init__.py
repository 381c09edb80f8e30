"""Images, captions, buckets, caches: from folders to batches of tensors."""
