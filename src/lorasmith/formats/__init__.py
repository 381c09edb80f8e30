"""LoRA file formats: layer and tensor names, metadata, reading and writing. Only here are the keys of foreign files
known."""
