"""Composition of update rules, as optax chains gradient transformations."""

from bptt_relax.relax._contract import UpdateRule


def chain(*rules: UpdateRule) -> UpdateRule:
    """Apply rules one after another; each gets what the one before made of the forces.

    The momentum of a rule is that of the displacement it gave, before a later rule capped it.

    Args:
        rules: at least one; hyperparameters and states become tuples in the same order.

    Raises:
        ValueError: no rules.
    """
    if not rules:
        raise ValueError("chain needs at least one rule")

    def init(hyper, system):
        return tuple(rule.init(h, system) for rule, h in zip(rules, hyper, strict=True))

    def update(hyper, forces, rule_state, system):
        new_states = []
        for rule, h, s in zip(rules, hyper, rule_state, strict=True):
            forces, s = rule.update(h, forces, s, system)
            new_states.append(s)
        return forces, tuple(new_states)

    return UpdateRule(tuple(rule.hyper for rule in rules), init, update)
