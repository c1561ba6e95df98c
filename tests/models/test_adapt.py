"""ADAPT: tables, masks, derivatives, what it is not; its certificate says so; its weights on disk."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.data import atomic_numbers, covalent_radii

from bptt_relax import analysis, losses, neighbors, relax, systems, trees, unrolling
from bptt_relax.adjoints import Checkpointed
from bptt_relax.elements import properties
from bptt_relax.models import adapt
from bptt_relax.outcomes import InputError
from bptt_relax.relax import Theta
from bptt_relax.weights import own_format

SMALL = adapt.Config(
    width=12, hidden=16, num_layers=2, num_heads=3, embedding=8, dropout=0.3, force_scale=0.5
)


BOTH_FORMS = pytest.mark.parametrize("config", [0.0, 4.0], indirect=True, ids=["published", "surroundings"])


@pytest.fixture(scope="module")
def config(request):
    return SMALL._replace(reach=getattr(request, "param", 4.0))


@pytest.fixture(scope="module")
def potential(config):
    return adapt.build(config, name="small adapt")


@pytest.fixture(scope="module")
def params(potential):
    """Random ones, those of the element properties, which start at zero, included."""
    start = potential.init(jax.random.key(0))
    kernel = start["properties"]["kernel"]
    return {**start, "properties": {"kernel": 0.1 * jax.random.normal(jax.random.key(1), kernel.shape)}}


@pytest.fixture(scope="module")
def doped(make_silicon, make_structure):
    atoms = make_silicon(1)
    atoms.numbers[2] = 8
    return make_structure(atoms)


def prepare(potential, structure, num_atoms=None):
    layout = systems.plan_layout([structure], potential.graph)
    layout = layout._replace(num_atoms=num_atoms or layout.num_atoms)
    return systems.prepare(structure, potential.graph, layout)


@functools.partial(jax.jit, static_argnums=0)
def forces(potential, params, positions, system):
    graph = neighbors.refresh(system.candidates, positions, system.cell)
    return potential.apply(params, positions, system, graph).forces


def test_the_published_sizes_have_the_published_number_of_parameters():
    shapes = jax.eval_shape(adapt.build().init, jax.random.key(0))
    # 4.3 million in the paper; attention has no biases here.
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == pytest.approx(4.3e6, rel=0.01)


def test_tables_hold_what_is_known_of_silicon_and_refuse_by_name():
    silicon = properties.PROPERTIES[14]
    assert silicon == pytest.approx((14, 3, 1.90, 111, 4, 8.1517, 134.07, 1.10, 12.06), rel=1e-3)
    for number, row in properties.PROPERTIES.items():
        assert len(row) == len(properties.NAMES) == 9
        assert np.all(np.isfinite(row))
        # ASE has another hybridization of carbon and another spin of some 3d metals.
        if number not in (6, 25, 26, 27):
            assert row[3] / 100 == pytest.approx(covalent_radii[number], abs=0.005)
    wanted = "Si B C O Al P Ge As N Ga Br Ni Sb In H Li F Mg S Cl Ti Fe Cu Zn Se Sn Te I Pb Bi"
    assert {atomic_numbers[symbol] for symbol in wanted.split()} <= set(properties.ELEMENTS)
    with pytest.raises(ValueError, match=r"no tabulated properties .* \[2, 36\]"):
        adapt.build(SMALL, elements=(14, 36, 2))
    with pytest.raises(ValueError, match="num_heads=5 must divide width=12"):
        adapt.build(SMALL._replace(num_heads=5))


def test_an_element_without_properties_is_never_taken_for_another(
    potential, params, make_silicon, make_structure
):
    atoms = make_silicon(1)
    atoms.numbers[3] = 36
    assert np.all(np.isnan(forces(potential, params, *prepare(potential, make_structure(atoms)))))


@BOTH_FORMS
def test_padding_changes_nothing(potential, params, doped):
    def norm(params, positions, system):
        return jnp.sum(jnp.sin(forces(potential, params, positions, system)[:7]))

    results = [
        jax.jit(jax.value_and_grad(norm, argnums=(0, 1)))(params, *prepare(potential, doped, size))
        for size in (7, 12)
    ]
    (bare, bare_gradient), (padded, padded_gradient) = results
    np.testing.assert_allclose(padded, bare, rtol=1e-13)
    for a, b in zip(*(jax.tree.leaves(g[0]) for g in (bare_gradient, padded_gradient)), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(padded_gradient[1][:7], bare_gradient[1], atol=1e-13)
    np.testing.assert_array_equal(padded_gradient[1][7:], 0.0)
    positions, system = prepare(potential, doped, 12)
    # Whatever stands in the padding: not only zeros.
    junk = positions.at[7:].set(1e3)
    np.testing.assert_array_equal(
        forces(potential, params, junk, system), forces(potential, params, positions, system)
    )


@pytest.mark.slow
def test_a_blank_structure_is_invisible(potential, params, doped):
    positions, system = prepare(potential, doped, 9)
    candidates = system.candidates._replace(mask=jnp.zeros_like(system.candidates.mask))
    blank = system._replace(
        mask=jnp.zeros_like(system.mask), species=jnp.zeros_like(system.species), candidates=candidates
    )
    value, gradient = jax.value_and_grad(lambda p: jnp.sum(forces(potential, p, positions, blank) ** 2))(
        params
    )
    assert float(value) == 0.0
    assert all(bool(jnp.all(leaf == 0.0)) for leaf in jax.tree.leaves(gradient))


def test_elements_differ_only_once_training_has_varied_them(potential, params, doped):
    positions, system = prepare(potential, doped)
    pure = system._replace(species=jnp.full_like(system.species, 14))
    untrained = potential.init(jax.random.key(0))
    np.testing.assert_array_equal(
        forces(potential, untrained, positions, system), forces(potential, untrained, positions, pure)
    )
    tuned, as_pure = (forces(potential, params, positions, s) for s in (system, pure))
    assert np.max(np.abs(tuned - as_pure)) > 1e-3


@pytest.mark.slow
def test_dropout_is_for_training_only(config, potential, params, doped):
    positions, system = prepare(potential, doped, 9)
    noisy = jax.jit(adapt.noisy_forces(config))
    graph = neighbors.refresh(system.candidates, positions, system.cell)
    seen = [noisy(params, positions, system, graph, jax.random.key(k)) for k in (0, 0, 1)]
    plain = forces(potential, params, positions, system)
    np.testing.assert_array_equal(seen[0], seen[1])
    assert np.max(np.abs(seen[0] - seen[2])) > 1e-3
    assert np.max(np.abs(seen[0] - plain)) > 1e-3
    np.testing.assert_array_equal(seen[0][7:], 0.0)
    np.testing.assert_array_equal(plain, forces(potential, params, positions, system))


@pytest.mark.slow
def test_gradients_through_an_unroll_are_differences(potential, params, doped):
    positions, system = prepare(potential, doped, 8)
    rule = relax.chain(relax.momentum(0.05, 0.5), relax.cap_displacement(0.1))
    relaxation = relax.relaxation(potential, rule)
    target = positions + 0.1 * np.random.default_rng(2).normal(size=positions.shape)

    def loss(run, theta, positions):
        final = run(theta, relaxation.init(theta, positions, system), system).state
        return losses.delta_q(final.positions, target, system)

    plain = unrolling.unroll(relaxation, 12)
    value = jax.jit(jax.value_and_grad(lambda *args: loss(plain, *args), argnums=(0, 1)))
    point = (Theta(params, rule.hyper), positions)
    gradient = value(*point)[1]
    rng = np.random.default_rng(3)
    direction = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), point)
    slope = sum(jnp.vdot(a, b) for a, b in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))

    def moved(step):
        return float(value(*jax.tree.map(lambda x, d: x + step * d, point, direction))[0])

    # Small, so that no ReLU bends on the way.
    h = 1e-6
    difference = (8 * (moved(h) - moved(-h)) - (moved(2 * h) - moved(-2 * h))) / (12 * h)
    assert abs(difference) > 1e-3
    np.testing.assert_allclose(slope, difference, rtol=1e-6)
    # There is no leaner backward pass: "force" is "step".
    lean = unrolling.unroll(relaxation, 12, Checkpointed("force"))
    other = jax.jit(jax.grad(lambda *args: loss(lean, *args), argnums=(0, 1)))(*point)
    for a, b in zip(*map(jax.tree.leaves, (gradient, other)), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-10, atol=1e-13)


@pytest.mark.slow
def test_the_certificate_reports_what_it_is_not(potential, params, doped):
    positions, system = prepare(potential, doped)
    rule = relax.descent(0.02)
    certificate = analysis.selftest(potential, params, positions, system, rule, 4, single=False)
    checks = {c.name: c for c in certificate.checks}
    assert not certificate.conservative
    assert checks["rotation"].passed is None
    assert checks["rotation"].value > 1e-3
    assert checks["translation"].value < 1e-9
    assert checks["permutation"].value < 1e-9
    assert checks["energy and forces"].passed is None
    assert "no energy" in checks["energy and forces"].detail
    assert [c.name for c in certificate.checks if c.passed is False and "step size" not in c.name] == []
    text = analysis.format_certificate(certificate)
    assert "a direct-force model: its forces are the gradient of no energy" in text


@BOTH_FORMS
def test_what_wrapping_an_atom_means(config, potential, params, doped):
    moved = doped.positions.copy()
    moved[0] += doped.cell[0]
    here, there = (
        forces(potential, params, *prepare(potential, structure))
        for structure in (doped, doped._replace(positions=moved))
    )
    if config.reach:
        np.testing.assert_allclose(there, here, atol=1e-12)
    else:
        assert np.max(np.abs(there - here)) > 1e-3


def test_more_neighbors_than_slots_make_no_forces(make_structure, make_silicon):
    crowded = adapt.build(SMALL._replace(reach=4.0, slots=3))
    case = prepare(crowded, make_structure(make_silicon(1)))
    assert np.all(np.isnan(forces(crowded, crowded.init(jax.random.key(0)), *case)))


def test_weights_go_to_disk_and_back(potential, params):
    arrays = own_format.to_arrays(params)
    assert all(a.dtype == np.float32 for a in arrays.values())
    back = own_format.from_arrays(arrays, potential, "file")
    assert jax.tree.structure(back) == jax.tree.structure(params)
    for a, b in zip(*map(jax.tree.leaves, (params, back)), strict=True):
        assert b.dtype == jnp.zeros(()).dtype
        np.testing.assert_allclose(b, a, rtol=1e-7)
    assert trees.all_finite(back)
    name = "forces/kernel"
    for change, message in (
        (lambda a: a.pop(name), f"lacks {name}"),
        (lambda a: a.update(more=a[name]), "has more"),
        (lambda a: a.update({name: a[name].T}), "has the shape"),
        (lambda a: a.update({name: np.nan * a[name]}), "NaN"),
    ):
        changed = dict(arrays)
        change(changed)
        with pytest.raises(InputError, match=message):
            own_format.from_arrays(changed, potential, "file")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("width"), "lacks setting 'width'"),
        (lambda a: a.update(depth=3), "unknown setting 'depth'"),
        (lambda a: a.update(width="wide"), "width='wide', which is no int"),
        (lambda a: a.update(num_layers=2.5), "which is no int"),
    ],
)
def test_settings_of_a_file_are_checked(change, message):
    arguments = {k: list(v) if isinstance(v, tuple) else v for k, v in SMALL._asdict().items()}
    assert own_format.read_config(adapt.Config(), arguments, "file") == SMALL
    change(arguments)
    with pytest.raises(InputError, match=message):
        own_format.read_config(adapt.Config(), arguments, "file")
