"""Settings of the networks and of the household model."""

from dataclasses import dataclass

from ttsgan.config.checks import require, require_least, require_share, require_width


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderConfig:
    """The transformer VAE that maps a series to a latent."""

    width: int = 64
    """Token width D; a multiple of twice ``heads``."""
    depth: int = 2
    """Transformer blocks of the encoder; 1 or more. Half of them (rounded up) see weeks, the others whole series."""
    heads: int = 2
    """Attention heads; 1 or more."""
    latent_dim: int = 16
    """Dimensions of the latent z, and therefore of a condition; 1 or more."""
    dropout: float = 0.0
    """Dropout probability inside the blocks; 0 to below 1."""
    kl_weight: float = 0.05
    """Weight of the KL term per latent dimension, relative to the reconstruction error; 0 or more."""
    free_bits: float = 0.1
    """Nats per series and latent dimension that the KL term leaves free, against posterior collapse; 0 or more."""

    def __post_init__(self) -> None:
        require_width("encoder", self.width, self.heads)
        require_least(self, "encoder", 1, "depth", "latent_dim")
        require_least(self, "encoder", 0, "kl_weight", "free_bits")
        require_share(self, "encoder", "dropout")


@dataclass(frozen=True, kw_only=True, slots=True)
class HouseholdConfig:
    """The household numbers (level, quantiles, habits) and their distribution given the condition."""

    quantile_components: int = 16
    """Principal components kept of the quantile function of a series' non-zero values over its mean size; 1 or more."""
    habit_components: int = 20
    """Principal components kept of the habit: the mean day by kind of day and season, in normal scores; 1 or more."""
    mixtures: int = 32
    """Most Gaussians in the mixture over household numbers and condition, 1 to 64; few households get fewer."""

    def __post_init__(self) -> None:
        require_least(self, "household", 1, "quantile_components", "habit_components")
        require(1 <= self.mixtures <= 64, "household.mixtures", self.mixtures, "1 to 64")


@dataclass(frozen=True, kw_only=True, slots=True)
class DaysConfig:
    """The temporal prior: a causal transformer over days, trained by maximum likelihood."""

    width: int = 64
    """Token width D; a multiple of twice ``heads``."""
    depth: int = 2
    """Transformer blocks; 1 or more."""
    heads: int = 2
    """Attention heads; 1 or more."""
    memory: int = 30
    """Attention window in tokens (days), the current one included; 1 or more."""
    crop: int = 122
    """Consecutive days (tokens) per series in a training step, from a random day; 1 or more. Input features still cover
    all earlier days; attention sees only the crop."""
    values: int = 12
    """Most slots of a day that enter the loss of a step, chosen at random; 1 or more. All slots are inputs, and all are
    sampled."""
    mixtures: int = 8
    """Gaussians in the mixture that each value of a day is drawn from; 1 or more."""
    value_width: int = 96
    """Width of the value head: the network that gives the distribution of a value given the values before it in its
    day; 1 or more."""
    dropout: float = 0.1
    """Dropout probability inside the blocks; 0 to below 1."""
    jitter: float = 1.5
    """Standard deviation of the noise added to household numbers in training, in standard deviations of each number,
    for 100 training series, against memorising; 0 or more. With n series its variance is scaled by 100 / n, which keeps
    the implied ridge penalty constant."""
    last_dropout: float = 0.5
    """Dropout between the transformer's output and the value head, for 100 training series, 0 to below 1; with n series
    its odds p / (1 - p) are scaled by 100 / n."""

    def __post_init__(self) -> None:
        require_width("days", self.width, self.heads)
        require_least(self, "days", 1, "depth", "memory", "crop", "values", "mixtures", "value_width")
        require_least(self, "days", 0, "jitter")
        require_share(self, "days", "dropout", "last_dropout")


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratorConfig:
    """The three-branch generator."""

    width: int = 48
    """Token width D of every branch; a multiple of twice ``heads``."""
    depth: int = 1
    """Transformer blocks of each branch; 1 or more."""
    heads: int = 2
    """Attention heads; 1 or more."""
    noise: str = "prior"
    """``prior``: the generator corrects a sample of the temporal prior; ``white``: it generates from white noise
    alone."""
    noise_dim: int = 16
    """Dimensions of the noise of each token, and of the noise of the whole series; 1 or more."""
    correction_limit: float = 1.0
    """Trust region of the correction, in standard deviations of the scaled series; above 0; only with ``prior``."""

    def __post_init__(self) -> None:
        require_width("generator", self.width, self.heads)
        require_least(self, "generator", 1, "depth", "noise_dim")
        require(self.noise in ("prior", "white"), "generator.noise", self.noise, "prior, white")
        require(self.correction_limit > 0, "generator.correction_limit", self.correction_limit, "above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class DiscriminatorConfig:
    """The transformer discriminator: one logit for the year and one for each token, both given the condition."""

    width: int = 48
    """Token width D; a multiple of twice ``heads``."""
    depth: int = 2
    """Transformer blocks, local and global ones together; 1 or more."""
    heads: int = 2
    """Attention heads; 1 or more."""
    local_weight: float = 1.0
    """Weight of the mean loss of the token logits, relative to the loss of the year's logit; 0 or more."""

    def __post_init__(self) -> None:
        require_width("discriminator", self.width, self.heads)
        require_least(self, "discriminator", 1, "depth")
        require_least(self, "discriminator", 0, "local_weight")
