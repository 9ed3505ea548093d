"""How the package's own models were made, and the verdict calibrated; none of it is shipped."""
