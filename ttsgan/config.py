"""Every setting of a run: frozen dataclasses, one per part, and `RunConfig`, which holds them all.

A run is a named recipe (`ttsgan.recipes`) plus overrides such as ``generator.depth=4``. The result is printed, saved as
``config.json`` in the run folder and with every checkpoint. Each field has its unit and range beside it and is checked here,
so that a wrong value is refused before anything is read or started.
"""

from dataclasses import dataclass, field

from ttsgan.errors import ConfigError

LOSSES = ("standard", "hinge", "lsgan", "wgan-gp", "relativistic")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def _require(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds:
        raise ConfigError(f"{name} is {value!r}; allowed: {allowed}")


def _require_width(section: str, width: int, heads: int) -> None:
    _require(width > 0 and heads > 0, f"{section}.width", width, "a positive whole number")
    _require(width % heads == 0, f"{section}.width", width, f"a multiple of {section}.heads ({heads})")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """What is read, how it is resampled, and how it is split."""

    source: tuple[str, ...] = ("sample",)
    """Files, folders or URIs of real series, or ``sample`` for the simulated population."""
    step: str = ""
    """Step to aggregate to, such as ``4h`` or ``30min``; empty keeps the step of the source."""
    entity: str = "entity"
    """Column that names the household or meter to protect; a source without it protects each ``id``."""
    holdout: str = "auto"
    """Share of entities held out (0 to 1), or the path of a holdout; ``auto``: 0.5 of the sample, 0.25 of real data."""
    aggregate: str = "auto"
    """How steps are joined: ``sum``, ``mean``, or ``auto`` by the unit (energy is summed, rates and levels averaged)."""
    unit: str = ""
    """Unit of sources that carry none, such as ``kWh``."""
    step_seconds: int = 0
    """Step of sources that carry none, in seconds; 0: the year divided by the length."""
    start: str = ""
    """First time stamp of sources that carry none (ISO 8601); empty: 2013-01-01."""
    min_observed: float = 0.5
    """Share of observed values (0 to 1) below which a series is set aside."""

    def __post_init__(self) -> None:
        _require(len(self.source) > 0 and all(self.source), "data.source", self.source, "at least one path")
        _require(self.aggregate in ("auto", "sum", "mean"), "data.aggregate", self.aggregate, "auto, sum, mean")
        _require(self.step_seconds >= 0, "data.step_seconds", self.step_seconds, "0 or a number of seconds")
        _require(0 < self.min_observed <= 1, "data.min_observed", self.min_observed, "above 0, up to 1")
        fraction = self.holdout_fraction()
        _require(
            fraction is None or 0 < fraction < 1,
            "data.holdout",
            self.holdout,
            "above 0 and below 1, or a path",
        )

    @property
    def is_sample(self) -> bool:
        """Whether the source is the built-in simulated population."""
        return self.source == ("sample",)

    def holdout_fraction(self) -> float | None:
        """Return the share of entities to hold out, or None when ``holdout`` is a path."""
        if self.holdout == "auto":
            return 0.5 if self.is_sample else 0.25
        try:
            return float(self.holdout)
        except ValueError:
            return None


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleConfig:
    """The simulated population behind ``--data sample``."""

    households: int = 10_000
    """Number of simulated households, held-out ones included."""
    length: int = 2190
    """Points per series: 8760 (hourly year) or 2190 (4-hour means)."""
    seed: int = 0
    """Seed of the simulation; apart from the seed of the run."""

    def __post_init__(self) -> None:
        _require(self.households >= 1, "sample.households", self.households, "1 or more")
        _require(self.length in (2190, 8760), "sample.length", self.length, "2190 or 8760")
        _require(self.seed >= 0, "sample.seed", self.seed, "0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchConfig:
    """How a series is cut into tokens."""

    size: int = 0
    """Points per token; 0: one day."""
    pad: bool = True
    """Pad a length that the patch does not divide, under a mask; off refuses such a length."""

    def __post_init__(self) -> None:
        _require(self.size >= 0, "patch.size", self.size, "0 (one day) or a number of points")


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderConfig:
    """The transformer VAE that turns a series into a latent."""

    width: int = 64
    """Token width D."""
    depth: int = 2
    """Transformer blocks of the encoder."""
    heads: int = 2
    """Attention heads; divides the width."""
    latent_dim: int = 16
    """Dimensions of the latent z, and so of a condition."""
    dropout: float = 0.0
    """Dropout share inside the blocks."""
    kl_weight: float = 0.05
    """Weight of the KL term per latent dimension, relative to the reconstruction error."""
    free_bits: float = 0.1
    """Nats per latent dimension that the KL term does not punish; keeps the latent alive."""

    def __post_init__(self) -> None:
        _require_width("encoder", self.width, self.heads)
        _require(self.depth >= 1, "encoder.depth", self.depth, "1 or more")
        _require(self.latent_dim >= 1, "encoder.latent_dim", self.latent_dim, "1 or more")
        _require(0 <= self.dropout < 1, "encoder.dropout", self.dropout, "0 to below 1")
        _require(self.kl_weight >= 0, "encoder.kl_weight", self.kl_weight, "0 or more")
        _require(self.free_bits >= 0, "encoder.free_bits", self.free_bits, "0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class HouseholdConfig:
    """The numbers of a household (level, quantiles, habits) and their law given the condition."""

    quantile_components: int = 8
    """Principal components kept of the quantile function of a series divided by its level."""
    habit_components: int = 20
    """Principal components kept of the habit: the mean day by kind of day and season, in normal scores."""
    mixtures: int = 8
    """Most Gaussians in the joint law of numbers and condition; validation entities choose how many are used."""

    def __post_init__(self) -> None:
        _require(
            self.quantile_components >= 1,
            "household.quantile_components",
            self.quantile_components,
            "1 or more",
        )
        _require(self.habit_components >= 1, "household.habit_components", self.habit_components, "1 or more")
        _require(1 <= self.mixtures <= 16, "household.mixtures", self.mixtures, "1 to 16")


@dataclass(frozen=True, kw_only=True, slots=True)
class DaysConfig:
    """The temporal prior: a causal transformer over days, trained by likelihood."""

    width: int = 96
    """Token width D."""
    depth: int = 3
    """Transformer blocks."""
    heads: int = 2
    """Attention heads; divides the width."""
    memory: int = 60
    """Tokens (days) that attention looks back."""
    mixtures: int = 6
    """Full-covariance Gaussians in the mixture that a day is drawn from."""
    dropout: float = 0.1
    """Dropout share inside the blocks."""
    jitter: float = 0.15
    """Noise on the household numbers in training, in standard deviations, so that no household is learned by heart."""

    def __post_init__(self) -> None:
        _require_width("days", self.width, self.heads)
        _require(self.depth >= 1, "days.depth", self.depth, "1 or more")
        _require(self.memory >= 1, "days.memory", self.memory, "1 or more")
        _require(self.mixtures >= 1, "days.mixtures", self.mixtures, "1 or more")
        _require(0 <= self.dropout < 1, "days.dropout", self.dropout, "0 to below 1")
        _require(self.jitter >= 0, "days.jitter", self.jitter, "0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratorConfig:
    """The three-branch generator."""

    width: int = 48
    """Token width D of every branch."""
    depth: int = 1
    """Transformer blocks of each branch."""
    heads: int = 2
    """Attention heads; divides the width."""
    noise: str = "prior"
    """``prior``: the generator corrects a draw of the temporal prior; ``white``: it writes from white noise alone."""
    noise_dim: int = 16
    """Dimensions of the noise of each token, and of the noise of the whole series."""
    correction_limit: float = 1.0
    """Trust region of the correction, in standard deviations of the scaled series; only for ``prior`` noise."""

    def __post_init__(self) -> None:
        _require_width("generator", self.width, self.heads)
        _require(self.depth >= 1, "generator.depth", self.depth, "1 or more")
        _require(self.noise in ("prior", "white"), "generator.noise", self.noise, "prior, white")
        _require(self.noise_dim >= 1, "generator.noise_dim", self.noise_dim, "1 or more")
        _require(self.correction_limit > 0, "generator.correction_limit", self.correction_limit, "above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class DiscriminatorConfig:
    """The transformer discriminator: one logit for the year and one for each token, both given the condition."""

    width: int = 48
    """Token width D."""
    depth: int = 2
    """Transformer blocks."""
    heads: int = 2
    """Attention heads; divides the width."""
    local_weight: float = 1.0
    """Weight of the mean loss of the token logits beside the loss of the year's logit."""

    def __post_init__(self) -> None:
        _require_width("discriminator", self.width, self.heads)
        _require(self.depth >= 1, "discriminator.depth", self.depth, "1 or more")
        _require(self.local_weight >= 0, "discriminator.local_weight", self.local_weight, "0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """The adversarial loss and its regularisers."""

    name: str = "relativistic"
    """``standard``, ``hinge``, ``lsgan``, ``wgan-gp`` or ``relativistic``."""
    penalty_weight: float = 10.0
    """Weight of the gradient penalty: zero-centred on real and synthetic, or one-centred between them for wgan-gp."""
    penalty_interval: int = 4
    """The penalty is computed every so many discriminator steps, with its weight multiplied by as much."""
    drift: float = 0.0
    """Weight of the squared logits of real series, which keeps a Wasserstein critic near zero."""
    mode_seeking: float = 0.0
    """Weight of the mode-seeking term, which asks that two noises give two series."""
    cycle: float = 1.0
    """Weight of the cycle term: series of one condition encode, on average, to that condition."""

    def __post_init__(self) -> None:
        _require(self.name in LOSSES, "loss.name", self.name, ", ".join(LOSSES))
        _require(self.penalty_interval >= 1, "loss.penalty_interval", self.penalty_interval, "1 or more")
        for name in ("penalty_weight", "drift", "mode_seeking", "cycle"):
            _require(getattr(self, name) >= 0, f"loss.{name}", getattr(self, name), "0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """Length, batches, rates, precision and alarms of training."""

    max_series: int = 8_000
    """Series seen in all, over the three stages of training."""
    encoder_share: float = 0.2
    """Share of ``max_series`` spent on the encoder."""
    days_share: float = 0.6
    """Share of ``max_series`` spent on the temporal prior; the rest trains the generator and discriminator."""
    batch_size: int = 32
    """Series per optimizer step, over all workers."""
    encoder_lr: float = 2e-3
    """Peak learning rate of the encoder."""
    days_lr: float = 2e-3
    """Peak learning rate of the temporal prior."""
    generator_lr: float = 5e-4
    """Peak learning rate of the generator."""
    discriminator_lr: float = 2e-4
    """Peak learning rate of the discriminator."""
    warmup: float = 0.05
    """Share of each stage over which its rates rise from zero; they fall as a cosine afterwards."""
    weight_decay: float = 0.01
    """AdamW weight decay."""
    grad_clip: float = 1.0
    """Largest norm of a network's gradient; longer ones are shortened."""
    ema_half_life: int = 500
    """Series over which the weight of old parameters in the average falls by half."""
    precision: str = "auto"
    """``fp32``, ``bf16``, ``fp16`` (GPU only) or ``auto``: bf16 where the device has fast bf16 products."""
    checkpoint_interval: int = 2_000
    """Series between two checkpoints."""
    log_interval: int = 320
    """Series between two lines of progress."""
    diversity_floor: float = 0.2
    """Spread between generated series over spread between real ones below which training stops as collapsed."""
    validation_share: float = 0.1
    """Share of the training entities kept apart to choose how much of the generator's correction is used."""

    def __post_init__(self) -> None:
        for name in ("max_series", "batch_size", "ema_half_life", "checkpoint_interval", "log_interval"):
            _require(getattr(self, name) >= 1, f"training.{name}", getattr(self, name), "1 or more")
        for name in ("encoder_lr", "days_lr", "generator_lr", "discriminator_lr", "grad_clip"):
            _require(getattr(self, name) > 0, f"training.{name}", getattr(self, name), "above 0")
        for name in ("encoder_share", "days_share", "warmup", "diversity_floor"):
            _require(0 <= getattr(self, name) < 1, f"training.{name}", getattr(self, name), "0 to below 1")
        _require(
            0 < self.validation_share <= 0.5,
            "training.validation_share",
            self.validation_share,
            "above 0, to 0.5",
        )
        shares = self.encoder_share + self.days_share
        _require(shares <= 1, "training.encoder_share + training.days_share", shares, "at most 1")
        _require(self.weight_decay >= 0, "training.weight_decay", self.weight_decay, "0 or more")
        _require(self.precision in PRECISIONS, "training.precision", self.precision, ", ".join(PRECISIONS))


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterConfig:
    """Groups of latents and the conditions made from them."""

    min_group_size: int = 15
    """Smallest number of distinct entities in a group, and the least number averaged into a condition; at least 10."""
    groups: int = 0
    """Groups to look for; 0: entities / (2 min_group_size), at least 2."""
    iterations: int = 20
    """Most Lloyd iterations."""
    probes: int = 0
    """Entities averaged into a condition; 0: all of the group."""
    outlier_quantile: float = 0.99
    """Latents farther from their centroid than this quantile take part in no condition."""
    max_dominance: float = 0.15
    """Largest share that one entity may have in the sum of levels of its group."""
    shards: int = 2
    """Actors that hold the latents; the result does not depend on it."""

    def __post_init__(self) -> None:
        _require(self.min_group_size >= 10, "cluster.min_group_size", self.min_group_size, "10 or more")
        _require(self.groups == 0 or self.groups >= 2, "cluster.groups", self.groups, "0 (automatic) or 2 or more")
        _require(self.iterations >= 1, "cluster.iterations", self.iterations, "1 or more")
        ok = self.probes == 0 or self.probes >= self.min_group_size
        _require(
            ok,
            "cluster.probes",
            self.probes,
            f"0 (all) or at least cluster.min_group_size ({self.min_group_size})",
        )
        _require(
            0.5 < self.outlier_quantile <= 1,
            "cluster.outlier_quantile",
            self.outlier_quantile,
            "above 0.5, up to 1",
        )
        _require(0 < self.max_dominance <= 1, "cluster.max_dominance", self.max_dominance, "above 0, up to 1")
        _require(self.shards >= 1, "cluster.shards", self.shards, "1 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateConfig:
    """How many series are written, and in what portions."""

    series: int = 0
    """Series to write; 0: as many as there are training entities."""
    chunk: int = 256
    """Series drawn together from one seed and written as one part; workers share chunks, so results do not depend on them."""

    def __post_init__(self) -> None:
        _require(self.series >= 0, "generate.series", self.series, "0 (as many as training entities) or more")
        _require(self.chunk >= 1, "generate.chunk", self.chunk, "1 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """Size of the fidelity evaluation."""

    max_series: int = 1_000
    """Most series on each side of a distance."""
    bootstrap: int = 200
    """Resamples of entities behind each interval."""

    def __post_init__(self) -> None:
        _require(self.max_series >= 10, "evaluate.max_series", self.max_series, "10 or more")
        _require(self.bootstrap >= 20, "evaluate.bootstrap", self.bootstrap, "20 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditConfig:
    """Limits of the release gate; each is compared with a one-sided 95 % bound."""

    max_targets: int = 5_000
    """Most members, and most non-members, that are attacked."""
    auc: float = 0.55
    """Largest area under the membership ROC curve."""
    tpr: float = 0.02
    """Largest true positive rate at a false positive rate of 1 %."""
    outlier_tpr: float = 0.05
    """The same among the series farthest from all others."""
    soft_copies: float = 0.001
    """Largest share of synthetic series that are nearer to a training series than chance explains."""
    linkage_risk: float = 0.09
    """Largest residual risk that known weeks link a household to a synthetic series."""

    def __post_init__(self) -> None:
        _require(self.max_targets >= 100, "audit.max_targets", self.max_targets, "100 or more")
        _require(0.5 < self.auc < 1, "audit.auc", self.auc, "between 0.5 and 1")
        for name in ("tpr", "outlier_tpr"):
            _require(0.01 < getattr(self, name) < 1, f"audit.{name}", getattr(self, name), "between 0.01 and 1")
        for name in ("soft_copies", "linkage_risk"):
            _require(0 < getattr(self, name) < 1, f"audit.{name}", getattr(self, name), "between 0 and 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class RuntimeConfig:
    """Machines: how many workers, and what each gets."""

    num_workers: int = 2
    """Training workers (processes); 0 trains in the driver without Ray."""
    use_gpu: bool = False
    """One GPU for each training and generation worker."""
    cpus_per_worker: int = 1
    """CPUs, and so compute threads, of each worker."""
    max_failures: int = 2
    """Lost training workers survived before the run gives up."""
    scale_up_seconds: int = 0
    """Seconds to wait for an autoscaler to bring the machines asked for; 0 refuses at once when they are not there."""
    max_concurrent_trials: int = 1
    """Trials of a search that run at the same time."""

    def __post_init__(self) -> None:
        _require(self.num_workers >= 0, "runtime.num_workers", self.num_workers, "0 or more")
        _require(self.cpus_per_worker >= 1, "runtime.cpus_per_worker", self.cpus_per_worker, "1 or more")
        _require(self.scale_up_seconds >= 0, "runtime.scale_up_seconds", self.scale_up_seconds, "0 or more")
        _require(self.max_failures >= 0, "runtime.max_failures", self.max_failures, "0 or more")
        _require(
            self.max_concurrent_trials >= 1,
            "runtime.max_concurrent_trials",
            self.max_concurrent_trials,
            "1 or more",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """A whole run."""

    recipe: str = "quick"
    """Name of the recipe that this configuration started from."""
    seed: int = 0
    """Seed of the split, the training, the groups and the draws."""
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
        _require(self.seed >= 0, "seed", self.seed, "0 or more")
