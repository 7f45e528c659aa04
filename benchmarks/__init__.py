"""Speed against peers and limits, each asserting correctness before it times; run by `python -m benchmarks`."""
