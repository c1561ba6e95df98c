"""Fine-tuned weights back in the format of the package they came from, with how well that package agrees."""

import hashlib
import json
from pathlib import Path

from bptt_relax._precision import precision
from bptt_relax._types import Params
from bptt_relax.models import parity
from bptt_relax.models._contract import family
from bptt_relax.models.parity import Parity
from bptt_relax.models.pretrained import find
from bptt_relax.outcomes import InputError, ModelError
from bptt_relax.weights import weights_file
from bptt_relax.weights.published import Published


def export(
    path: str | Path,
    name_or_path: str | Path,
    params: Params | None = None,
    *,
    python: str | Path | None = None,
) -> Parity | None:
    """Write weights to a file that the original package loads (.pth.tar of CHGNet, .nqx of Nequix, .pth of SevenNet).

    What the file holds is read back and predicts a few structures; so does the original package where some Python has
    it. Both predictions and their differences are noted in ``<path>.parity.json``.

    Args:
        path: where; replaced if it exists.
        name_or_path: what `load` was given to make the potential.
        params: of that potential; those of ``name_or_path`` itself when not given.
        python: interpreter that has the original package; the present one when not given, if it has it.

    Returns:
        the differences, or None where no Python with that package is at hand.

    Raises:
        InputError: unknown name, no such file, a model that no other package has, a name that does not end as the
            format asks, or a parameter that isn't finite.
        ModelError: the original package refuses the file, or predicts something else.
    """
    path = Path(path)
    weights, model = find(name_or_path)
    kind = family(model)
    original = kind.original
    if original is None:
        raise InputError(
            f"{model.name} goes back to no other package: models.save writes its weights as .safetensors, and "
            "ASECalculator runs them in ASE"
        )
    if not path.name.endswith(original.suffix):
        raise InputError(f"{model.name} is exported as {original.suffix}, not {path.name}: rename it")
    if params is not None:
        weights = kind.unload(params, weights)
    data = original.encode(weights)
    # Read back before it replaces what may be there: what can't be read is refused.
    back = kind.convert(Published(data, str(path), ""), model)
    # Double precision here, so that what is left is the other side's rounding.
    with precision(double=True):
        ours = parity.predictions(*kind.build(back, model, str(path)))
    weights_file.write_whole(path, data)
    python = python or parity.interpreter(original)
    answer = None if python is None else parity.ask(original, python, path, model.modality)
    found = None if answer is None else parity.compare(ours, answer)
    note = {
        "file": path.name,
        "sha256": hashlib.sha256(data).hexdigest(),
        "model": model.name,
        "units": "eV, angstrom, eV/angstrom^3 with ASE's sign",
        "tolerance": parity.TOLERANCE,
        "parity": None if found is None else found._asdict(),
        "predictions": {"bptt_relax": ours}
        | ({} if answer is None else {original.package: answer["predictions"]}),
    }
    text = json.dumps(note, indent=1) + "\n"
    weights_file.write_whole(path.with_name(f"{path.name}.parity.json"), text.encode())
    if found is not None and not found.passed:
        raise ModelError(
            f"{path} predicts something else in {found.package}: energy {found.energy:.1e} eV, forces "
            f"{found.forces:.1e} eV/A, stress {found.stress:.1e} eV/A^3 apart (see {path.name}.parity.json)"
        )
    return found
