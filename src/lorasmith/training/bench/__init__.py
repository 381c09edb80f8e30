"""`lorasmith bench`: time and memory of training steps, beside other trainers, in one run."""
