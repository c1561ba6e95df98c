"""Defaults by device and data: what a user gets who sets nothing, and what is set stays."""

import pytest

from bptt_relax.finetuning.batch_size import choose_batch
from bptt_relax.finetuning.settings import BpttSettings

CPU = {"backend": "cpu", "cores": 2, "devices": 1, "processes": 1}
CARD = {"backend": "gpu", "cores": 16, "devices": 1, "processes": 1}


@pytest.mark.parametrize(
    ("device", "relaxations", "size", "epochs", "rate"),
    [
        (CPU, 28, 2, 4, 5e-4 * 2**0.5),
        (CPU, 1, 1, 4, 5e-4),
        (CPU | {"cores": 64}, 10, 10, 4, 1e-3),
        (CARD, 28, 28, 160, 1e-3),
        (CARD, 100, 32, 40, 1e-3),
        (CARD, 1000, 32, 5, 1e-3),
        (CARD | {"devices": 4}, 1000, 128, 20, 1e-3),
        (CPU | {"devices": 4}, 28, 28, 160, 1e-3),
        (CPU | {"processes": 3}, 28, 6, 4, 1e-3),
        (CARD | {"processes": 2}, 1000, 64, 10, 1e-3),
    ],
)
def test_batches_suit_device_and_data(device, relaxations, size, epochs, rate):
    found = choose_batch(BpttSettings(), relaxations, device)
    assert (found.size, found.epochs) == (size, epochs)
    assert found.learning_rate == pytest.approx(rate)
    assert found.ionic_steps == max(4, size)
    assert str(size) in found.sentence


def test_what_is_set_stays():
    chosen = BpttSettings(batch_size=8, epochs=3, learning_rate=2e-4, ionic_steps=20)
    found = choose_batch(chosen, 28, CARD)
    assert (found.size, found.epochs, found.learning_rate, found.ionic_steps) == (8, 3, 2e-4, 20)
    assert choose_batch(chosen, 5, CPU).size == 5
