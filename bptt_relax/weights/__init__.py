"""Files of weights: the registry of what is published, where to find it, how to read it safely, the cache.

Nothing in here knows a network: what the arrays of a file mean is said in the folder of its family in
`bptt_relax.models`.
"""
