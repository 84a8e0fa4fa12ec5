"""All settings of a run: one frozen dataclass per part, and `RunConfig`, which holds them all.

A run is a named recipe (`ttsgan.recipes`) plus overrides such as ``generator.depth=4``. The result is printed, and
saved as ``config.json`` in the run folder and with every checkpoint. Each field states its unit and range and is
checked where it is declared, so that a wrong value is refused before anything is read or started.
"""

from dataclasses import dataclass, field

from ttsgan.config.checks import require
from ttsgan.config.data import DataConfig, PatchConfig, SampleConfig
from ttsgan.config.networks import DaysConfig, DiscriminatorConfig, EncoderConfig, GeneratorConfig, HouseholdConfig
from ttsgan.config.stages import AuditConfig, ClusterConfig, EvaluateConfig, GenerateConfig, RuntimeConfig
from ttsgan.config.training import FREE_FIELDS, SHARED, LossConfig, TrainingConfig, check_batch, check_precision

__all__ = [
    "FREE_FIELDS",
    "SHARED",
    "AuditConfig",
    "ClusterConfig",
    "DataConfig",
    "DaysConfig",
    "DiscriminatorConfig",
    "EncoderConfig",
    "EvaluateConfig",
    "GenerateConfig",
    "GeneratorConfig",
    "HouseholdConfig",
    "LossConfig",
    "PatchConfig",
    "RunConfig",
    "RuntimeConfig",
    "SampleConfig",
    "TrainingConfig",
    "check_batch",
    "check_precision",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """Configuration of a whole run."""

    recipe: str = "quick"
    """Name of the recipe that this configuration is based on."""
    seed: int = 0
    """Seed of the holdout split, training, grouping and sampling; 0 to 2147483647."""
    data: DataConfig = field(default_factory=DataConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    patch: PatchConfig = field(default_factory=PatchConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    household: HouseholdConfig = field(default_factory=HouseholdConfig)
    days: DaysConfig = field(default_factory=DaysConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    audit: AuditConfig = field(default_factory=AuditConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**31, "seed", self.seed, "0 to 2147483647")
