"""What a fit will take, before it starts: memory, time, disk and downloads, counted without weights."""
