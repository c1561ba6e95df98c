"""How few relaxations are enough: BPTT against force matching on the same relaxations, in equal time."""
