import jax.numpy as jnp
import pytest

from bptt_relax.outcomes import InputError
from bptt_relax.potentials import trainable

PARAMS = {
    "embedding": jnp.zeros((3, 4)),
    "update_0": {"kernel": jnp.zeros((4, 4)), "bias": jnp.zeros(4)},
    "update_1": {"kernel": jnp.zeros((4, 4)), "bias": jnp.zeros(4)},
    "reference_energies": jnp.zeros(3),
}


def names(chosen):
    return [
        f"{group}/{name}" if name else group
        for group, entry in chosen.items()
        for name, train in (entry.items() if isinstance(entry, dict) else [("", entry)])
        if train
    ]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, ["embedding", "update_0/kernel", "update_0/bias", "update_1/kernel", "update_1/bias"]),
        ({"freeze": ("update_0", "embedding")}, ["update_1/kernel", "update_1/bias"]),
        ({"freeze": ("*/bias",)}, ["embedding", "update_0/kernel", "update_1/kernel"]),
        (
            {"train_only": ("update_*",), "freeze": ("update_1/bias",)},
            ["update_0/kernel", "update_0/bias", "update_1/kernel"],
        ),
    ],
)
def test_groups_are_chosen_by_name(arguments, expected):
    assert sorted(names(trainable(PARAMS, **arguments))) == sorted(expected)


@pytest.mark.parametrize("argument", ["freeze", "train_only"])
def test_a_name_that_matches_nothing_is_refused_with_those_there_are(argument):
    with pytest.raises(
        InputError, match="no parameter is called update_2; there are embedding, reference_energies, update_0"
    ):
        trainable(PARAMS, **{argument: ("update_1", "update_2")})


def test_nothing_left_to_train_is_refused():
    with pytest.raises(InputError, match="nothing is left to train"):
        trainable(PARAMS, train_only=("reference_energies",))
    with pytest.raises(InputError, match="freeze less"):
        trainable(PARAMS, freeze=("*",))
