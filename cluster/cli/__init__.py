"""The commands people type: `kvnode` runs a node, `kvctl` does everything else."""
