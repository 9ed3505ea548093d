"""The pocket: a small world, and a small text-to-image pipeline that was trained on it."""
