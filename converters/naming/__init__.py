"""Which array is what, by names, numbers, shapes and order: files that say nothing else."""
