"""Ways to differentiate a relaxation, given equal time: error, basins hit, memory, time of a gradient."""
