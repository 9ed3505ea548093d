"""``corridor label``: a person says the zones of a corridor's cells, and thresholds are found that agree."""
