"""Settings of fine-tuning: plain data, nothing heavy to import, so that --help is fast."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from bptt_relax.io.options import ReadOptions
from bptt_relax.runs.settings import RunSettings, Settings
from bptt_relax.units import parse_bytes


class RelaxationSettings(Settings):
    """The relaxation x <- x + step, in training and in testing."""

    rule: Literal["momentum", "descent", "fire"] = "momentum"
    """How forces become a step. fire has its own numbers in place of step_size, decay, mix and annealing; descent has
    neither decay nor mix."""
    scales: tuple[Literal["element", "step"], ...] = ()
    """Learnable factors on the forces, 1 at first: one for each element, one for each step."""
    step_size: float = Field(default=0.03, gt=0)
    """angstrom^2/eV."""
    decay: float = Field(default=0.7, gt=0, lt=1)
    """Weight of the previous displacement."""
    mix: Literal["heavy_ball", "convex"] = "heavy_ball"
    """How the previous displacement is mixed in."""
    annealing: float = Field(default=1.0, gt=0)
    """Factor on the step size per step."""
    cap: float = Field(default=0.15, gt=0)
    """Largest displacement of an atom in one step, angstrom."""
    train_steps: int = Field(default=24, ge=1)
    """Length of the unroll that is differentiated."""
    test_steps: int = Field(default=150, ge=1)
    """Largest number of steps of a relaxation that is evaluated."""
    force_tolerance: float = Field(default=0.01, ge=0)
    """A relaxation that is evaluated has converged when no force exceeds this, eV/angstrom."""
    stress_tolerance: float = Field(default=0.1, ge=0)
    """And, where the cell is relaxed too, no component of the stress exceeds this, GPa."""
    skin: float = Field(default=2.0, gt=0)
    """Of the neighbor list, angstrom: ample, because a rebuild within an unroll costs more than looking further."""


class ForceMatchingSettings(Settings):
    """Training on the forces of all ionic steps, and on their stresses where cells are relaxed: the control."""

    epochs: int = Field(default=3, ge=0)
    """Passes over all ionic steps at first; more follow until the time is that of BPTT."""
    learning_rate: float = Field(default=5e-4, gt=0)
    """Of Adam, at the top of its schedule."""
    batch_size: int = Field(default=4, ge=1)
    """Ionic steps per update."""
    huber_delta: float = Field(default=0.1, gt=0)
    """Where the loss turns linear, eV/angstrom."""
    stress_weight: float = Field(default=1.0, ge=0)
    """Weight of the stress, as twice the virial per atom, where the data's cells change; 0 matches forces alone."""
    clip: float = Field(default=1.0, gt=0)
    """Largest norm of a gradient."""
    averaging: float = Field(default=0.9, ge=0, lt=1)
    """Weight of the past in the moving average of the parameters, the model that is validated and used."""


class BpttSettings(Settings):
    """Training on where relaxations end."""

    epochs: int | None = Field(default=None, ge=0)
    """Passes over the training relaxations. By default four, and on an accelerator so many that there are 160
    updates."""
    batch_size: int = Field(default=0, ge=0)
    """Relaxations per update; 0 chooses by device and data: as many as there are cores, on an accelerator up to 32."""
    learning_rate: float = Field(default=0.0, ge=0)
    """Of Adam, at the top of its schedule; 0 chooses by the size of a batch: 5e-4 for one relaxation, 1e-3 from four
    on, in between by its square root."""
    clip: float = Field(default=5.0, gt=0)
    """Largest norm of a gradient."""
    distance: Literal["delta_q", "rmsd"] = "delta_q"
    """What is minimized: Delta Q, or the same with every atom of the mean mass."""
    softening: float = Field(default=0.3, ge=0)
    """Distance below which the loss is quadratic, sqrt(u)*angstrom; 0 for the distance itself."""
    cell_weight: float = Field(default=1.0, ge=0)
    """Where the cell is relaxed too: weight of its strain, in the units of Delta Q, against that of the positions."""
    averaging: float = Field(default=0.95, ge=0, lt=1)
    """Weight of the past in the moving average of the parameters, the model that is validated and used."""
    start_from: Literal["force_matching", "pretrained"] = "force_matching"
    """The model that BPTT continues."""
    from_initial: float = Field(default=0.4, ge=0, le=1)
    """Share of unrolls that start at the initial structure."""
    from_ionic_step: float = Field(default=0.3, ge=0, le=1)
    """Share that starts at a random ionic step; the rest starts at the rattled reference structure."""
    rattle: tuple[float, float] = (0.03, 0.1)
    """Range of the standard deviation of the rattle, angstrom."""
    rattle_strain: float = Field(default=0.02, ge=0)
    """Standard deviation of the strain that goes with it where the cell is relaxed too."""
    force_weight: float = Field(default=20.0, ge=0)
    """Weight of the force error of random ionic steps, sqrt(u)*angstrom per (eV/angstrom)^2; 0 needs no forces."""
    ionic_steps: int = Field(default=4, ge=1)
    """Least number of them in an update; as many as there are relaxations in it where these are more."""
    validate_every: int = Field(default=8, ge=1)
    """Least number of updates from one validation to the next; they are made after whole epochs."""
    anchor_weight: float = Field(default=0.0, ge=0)
    """Weight of staying close to the pretrained forces at the reference structure."""
    learn_potential: bool = True
    """Train the potential."""
    learn_rule: bool = False
    """Train step size, momentum and annealing (what the rule has) and the scales as well."""
    rule_learning_rate: float = Field(default=0.0, ge=0)
    """Learning rate of the rule, whose numbers train as logarithms and logits; that of the potential when 0."""
    adjoint: str = "full"
    """How a relaxation is differentiated: full; first_K or last_K, through K of its steps; implicit, frozen, through
    nothing but its end; guided_K, the first K steps and the end. See docs/choosing-an-adjoint.md."""

    @field_validator("adjoint")
    @classmethod
    def _known(cls, name: str) -> str:
        from bptt_relax.adjoints import named  # heavy, and not needed for --help: defaults are not validated

        named(name)
        return name

    @model_validator(mode="after")
    def _something_trains(self):
        if not (self.learn_potential or self.learn_rule):
            raise ValueError("neither learn_potential nor learn_rule: nothing would train")
        return self

    @model_validator(mode="after")
    def _shares(self):
        if self.from_initial + self.from_ionic_step > 1 + 1e-9:
            raise ValueError("from_initial and from_ionic_step add up to more than 1")
        if not 0 <= self.rattle[0] <= self.rattle[1]:
            raise ValueError("rattle must be a range: two non-negative numbers, smaller one first")
        return self

    @model_validator(mode="after")
    def _rule_trains(self):
        if self.learn_rule:
            from bptt_relax.adjoints import named

            if not named(self.adjoint).trains_rule:
                raise ValueError(
                    f"learn_rule with adjoint {self.adjoint} learns nothing of the rule: the gradient of where a "
                    "relaxation ends does not know its steps"
                )
        return self


class ParameterSettings(Settings):
    """Which parameters of the potential train, and how freely: the less moves, the less is forgotten."""

    freeze: tuple[str, ...] = ()
    """Groups that stay as they are, such as readout_0, atom_update_* or */bias."""
    train_only: tuple[str, ...] = ()
    """Groups that train, all others staying as they are; every group when empty."""
    rank: int = Field(default=0, ge=0)
    """Rank of the update of each matrix in each stage, nothing else training (LoRA); 0 trains all parameters freely."""


class ReplaySettings(Settings):
    """Staying close to the pretrained model on crystals of other chemistry, which are none of those it is judged by."""

    weight: float = Field(default=0.0, ge=0)
    """Weight against the loss of force matching; in BPTT times ``bptt.force_weight``. 0 for none."""
    batch_size: int = Field(default=4, ge=1)
    """Crystals looked at in each update."""


class RecipeSettings(Settings):
    """How one model is tuned: pretrained -> force matching -> BPTT."""

    model: str = "chgnet-0.3.0"
    """Name of a pretrained potential, or a file with weights."""
    seed: int = Field(default=0, ge=0)
    """Random seed: order of training, starting points."""
    relaxation: RelaxationSettings = RelaxationSettings()
    force_matching: ForceMatchingSettings = ForceMatchingSettings()
    bptt: BpttSettings = BpttSettings()
    parameters: ParameterSettings = ParameterSettings()
    replay: ReplaySettings = ReplaySettings()


class ComparedSettings(RunSettings, RecipeSettings):
    """Settings of an experiment that compares variants of a recipe."""

    preset: str = "full"
    """Where these settings started from."""


class FineTuningSettings(RunSettings, RecipeSettings):
    """Settings of a run: a recipe, repeated over seeds, and what it is compared with."""

    num_seeds: int = Field(default=1, ge=1)
    """How often to repeat the training, with seed, seed + 1, ..."""
    memory_budget: str = ""
    """Temporary memory that gradients may take, as 8GB: decides how many are taken at once, and how BPTT stores its
    steps. What the machine has when empty."""
    forgetting: bool = True
    """Compare each tuned model with the pretrained one on crystals of other chemistry; takes seconds."""

    @field_validator("memory_budget")
    @classmethod
    def _size(cls, text: str) -> str:
        if text:
            parse_bytes(text)
        return text

    def resolved(self) -> dict:
        """Everything that decides the outcome, as JSON. Memory does not: every gradient it chooses from is exact."""
        return self.model_dump(mode="json", exclude={"out", "resume", "distributed", "memory_budget"})


class SplitSettings(Settings):
    """What the relaxations are used for. Those that share a start, an end or a parent stay together."""

    validation: float = Field(default=0.15, gt=0, lt=1)
    """Share to choose the best model by."""
    test: float = Field(default=0.2, gt=0, lt=1)
    """Share to measure the result on, looked at once."""
    unseen: tuple[str, ...] = ()
    """Kinds (formulas, where the data say no more) to hold out entirely, and measure on separately."""
    draw: int = Field(default=0, ge=0)
    """Another number, another split."""


class OwnDataSettings(FineTuningSettings):
    """Settings of fine-tuning on the user's own relaxations."""

    reading: ReadOptions = ReadOptions()
    split: SplitSettings = SplitSettings()
