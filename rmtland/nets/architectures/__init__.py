"""Networks of the papers and of the built-in comparison; bring your own module for anything else."""
