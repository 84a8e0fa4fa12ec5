"""The networks and the household law."""

from dataclasses import dataclass

from ttsgan.config.checks import require, require_width


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
        require_width("encoder", self.width, self.heads)
        require(self.depth >= 1, "encoder.depth", self.depth, "1 or more")
        require(self.latent_dim >= 1, "encoder.latent_dim", self.latent_dim, "1 or more")
        require(0 <= self.dropout < 1, "encoder.dropout", self.dropout, "0 to below 1")
        require(self.kl_weight >= 0, "encoder.kl_weight", self.kl_weight, "0 or more")
        require(self.free_bits >= 0, "encoder.free_bits", self.free_bits, "0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class HouseholdConfig:
    """The numbers of a household (level, quantiles, habits) and their law given the condition."""

    quantile_components: int = 16
    """Principal components kept of the quantile function of what is not zero in a series, over its mean size."""
    habit_components: int = 20
    """Principal components kept of the habit: the mean day by kind of day and season, in normal scores."""
    mixtures: int = 32
    """Most Gaussians in the joint law of numbers and condition; few households get fewer of them."""

    def __post_init__(self) -> None:
        require(
            self.quantile_components >= 1,
            "household.quantile_components",
            self.quantile_components,
            "1 or more",
        )
        require(self.habit_components >= 1, "household.habit_components", self.habit_components, "1 or more")
        require(1 <= self.mixtures <= 64, "household.mixtures", self.mixtures, "1 to 64")


@dataclass(frozen=True, kw_only=True, slots=True)
class DaysConfig:
    """The temporal prior: a causal transformer over days, trained by likelihood."""

    width: int = 96
    """Token width D."""
    depth: int = 2
    """Transformer blocks."""
    heads: int = 2
    """Attention heads; divides the width."""
    memory: int = 30
    """Tokens (days) that attention looks back."""
    crop: int = 122
    """Tokens (days) in a row, from a random one on, that a training step learns of each series; those before them are
    told as they are everywhere, but attention begins with the first."""
    values: int = 12
    """Values of a day, random ones, that a training step learns, where a day has more; all are told and drawn."""
    mixtures: int = 8
    """Gaussians in the mixture that each value of a day is drawn from."""
    value_width: int = 96
    """Width of the network that gives the law of a value, given the values before it in its day."""
    dropout: float = 0.1
    """Dropout share inside the blocks."""
    jitter: float = 1.5
    """Noise on the household numbers in training, in standard deviations, so that no household is learned by heart:
    for a hundred training series. With n its variance is 100 / n of that, as a ridge penalty's weight beside theirs."""
    last_dropout: float = 0.5
    """Dropout share of what the blocks say of a day before the law of its values is made of it: for a hundred training
    series. With n its odds are 100 / n of that."""

    def __post_init__(self) -> None:
        require_width("days", self.width, self.heads)
        require(self.depth >= 1, "days.depth", self.depth, "1 or more")
        require(self.memory >= 1, "days.memory", self.memory, "1 or more")
        require(self.crop >= 1, "days.crop", self.crop, "1 or more")
        require(self.values >= 1, "days.values", self.values, "1 or more")
        require(self.mixtures >= 1, "days.mixtures", self.mixtures, "1 or more")
        require(self.value_width >= 1, "days.value_width", self.value_width, "1 or more")
        require(0 <= self.dropout < 1, "days.dropout", self.dropout, "0 to below 1")
        require(self.jitter >= 0, "days.jitter", self.jitter, "0 or more")
        require(0 <= self.last_dropout < 1, "days.last_dropout", self.last_dropout, "0 to below 1")


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
        require_width("generator", self.width, self.heads)
        require(self.depth >= 1, "generator.depth", self.depth, "1 or more")
        require(self.noise in ("prior", "white"), "generator.noise", self.noise, "prior, white")
        require(self.noise_dim >= 1, "generator.noise_dim", self.noise_dim, "1 or more")
        require(self.correction_limit > 0, "generator.correction_limit", self.correction_limit, "above 0")


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
        require_width("discriminator", self.width, self.heads)
        require(self.depth >= 1, "discriminator.depth", self.depth, "1 or more")
        require(self.local_weight >= 0, "discriminator.local_weight", self.local_weight, "0 or more")
