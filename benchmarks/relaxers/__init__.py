"""Who relaxes the set of `benchmarks.throughput`: one file per contestant, each with `relax(indices)`."""
