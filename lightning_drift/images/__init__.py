"""Pictures in and out: decoding any file, PNG with its text, contact sheets."""
