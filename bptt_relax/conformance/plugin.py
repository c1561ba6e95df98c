"""The pytest plugin: failures of the suite show the numbers that were compared. Imports nothing but pytest."""

import pytest

pytest.register_assert_rewrite(
    "bptt_relax.conformance.predictions", "bptt_relax.conformance.gradients", "bptt_relax.conformance.suite"
)
