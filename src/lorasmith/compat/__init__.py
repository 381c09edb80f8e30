"""Scripts of other trainers, run by name with their own options and files."""
