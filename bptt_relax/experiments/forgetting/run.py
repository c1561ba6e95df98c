"""Every remedy through the same two stages on the same defects, measured on held-out defects and other chemistry."""

from bptt_relax.experiments._defects import part_of_silicon
from bptt_relax.experiments.forgetting import figures
from bptt_relax.experiments.forgetting.config import VARIANTS, ForgettingConfig
from bptt_relax.finetuning.comparison import Comparison, compare
from bptt_relax.finetuning.forgetting import ForgettingCheck
from bptt_relax.finetuning.variants import changed
from bptt_relax.report.tables import print_grids
from bptt_relax.runs.session import Finished, Found


def run(config: ForgettingConfig) -> Finished:
    """Do the whole experiment.

    Args:
        config: settings.

    Raises:
        InputError, ModelError, Interrupted: see `finetuning.comparison.compare`.
    """
    corpus = part_of_silicon(config.data)
    return compare("forgetting", corpus, config, lambda comparison: _work(comparison, config), figures.draw)


def show(results: Found) -> None:
    """Print the table of what was found."""
    print_grids([figures.table(results)])


def _work(comparison: Comparison, config: ForgettingConfig) -> Found:
    comparison.session.reporter.begin("what the pretrained model says about other chemistry")
    base, pretrained = comparison.base, comparison.pretrained
    check = ForgettingCheck(base.potential, base.params, base.about, comparison.trainer.train)
    before = comparison.measure(pretrained, "pretrained", "pretrained")
    return {
        "probe": check.describe(),
        "pretrained": comparison.parts([before]),
        "variants": {
            name: _variant(comparison, config, name, check) for name in dict.fromkeys(config.variants)
        },
    }


def _variant(comparison: Comparison, config: ForgettingConfig, name: str, check: ForgettingCheck) -> Found:
    """Force matching, then BPTT, with one remedy; the best model on the validation structures counts."""
    variant, session = VARIANTS[name], comparison.session
    tuned = comparison.train(name, changed(config, variant.changes), variant.label)
    measured = comparison.measure(tuned.theta, name, variant.label)
    kept = session.folder / name / "bptt.forgetting.json"
    return {
        "label": variant.label,
        "remedy": variant.group,
        "changes": variant.changes,
        **tuned.describe(),
        "forgetting": session.timed(
            "forgetting", lambda: session.once(kept, lambda: check(tuned.theta.potential))
        ),
        **comparison.parts([measured]),
    }
