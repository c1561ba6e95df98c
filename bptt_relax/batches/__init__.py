"""Many structures of different size, element and cell: padded in few layouts, relaxed or differentiated together."""

from bptt_relax.batches.buckets import Bucket, describe, plan_buckets
from bptt_relax.batches.final import Final, Path
from bptt_relax.batches.mapping import over_structures
from bptt_relax.batches.predicting import PredictMany
from bptt_relax.batches.relaxing import RelaxMany, headroom

__all__ = [
    "Bucket",
    "Final",
    "Path",
    "PredictMany",
    "RelaxMany",
    "describe",
    "headroom",
    "over_structures",
    "plan_buckets",
]
