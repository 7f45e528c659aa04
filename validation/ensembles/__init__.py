"""Claims at dimensions that no dense matrix reaches."""
