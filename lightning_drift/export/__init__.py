"""What a fine-tune is written as for other programs: a folder, one file, a delta, a LoRA."""
