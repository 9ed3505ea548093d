"""Writing a fine-tune for other programs: a folder, one file, a delta, a LoRA."""
