"""What every other folder uses: errors, randomness, atomic files, lists on a command line."""
