"""Every remedy through the same two stages on the same defects, measured on held-out defects and other chemistry."""

from typing import Any

from bptt_relax.experiments._defects import compare_on_silicon
from bptt_relax.experiments.forgetting import figures
from bptt_relax.experiments.forgetting.config import VARIANTS, ForgettingConfig
from bptt_relax.finetuning import recorded
from bptt_relax.finetuning.comparison import Comparison, Drawing
from bptt_relax.finetuning.forgetting import Check


def run(config: ForgettingConfig) -> int:
    """Do the whole experiment.

    Args:
        config: settings.

    Returns:
        exit code, see `finetuning.comparison.compare`, whose errors it raises.
    """
    drawing = Drawing(figures.draw, lambda found: [figures.table(found)])
    return compare_on_silicon("forgetting", config, lambda comparison: _work(comparison, config), drawing)


def _work(comparison: Comparison, config: ForgettingConfig) -> dict[str, Any]:
    comparison.session.reporter.begin("what the pretrained model says about other chemistry")
    train = comparison.corpus.select(comparison.corpus.split.train)
    pretrained = comparison.pretrained
    check = Check(comparison.potential, pretrained.potential, comparison.base.about, train)
    before = comparison.measure(pretrained, "pretrained", "pretrained")
    return {
        "probe": check.describe(),
        "pretrained": comparison.parts([before]),
        "variants": {
            name: _variant(comparison, config, name, check) for name in dict.fromkeys(config.variants)
        },
    }


def _variant(comparison: Comparison, config: ForgettingConfig, name: str, check: Check) -> dict[str, Any]:
    """Force matching, then BPTT, with one remedy; the best model on the validation structures counts."""
    variant = VARIANTS[name]
    tuned = comparison.train(name, config.with_remedy(name), variant.label)
    measured = comparison.measure(tuned.theta, name, variant.label)
    folder = comparison.session.folder / name
    return {
        "label": variant.label,
        "remedy": variant.group,
        "changes": variant.changes,
        **tuned.describe(),
        "forgetting": recorded.forgetting(comparison.session, check, tuned.theta, folder, "bptt"),
        **comparison.parts([measured]),
    }
