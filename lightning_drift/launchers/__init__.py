"""Where commands of this program run: on this machine, on Ray, on SLURM, or by any other command."""
