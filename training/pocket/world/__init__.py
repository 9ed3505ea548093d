"""The small painted world that the pocket was trained on."""
