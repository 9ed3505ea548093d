"""The predict stage: prompts and seeds to pictures."""
