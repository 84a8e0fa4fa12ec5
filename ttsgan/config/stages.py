"""Settings of grouping, generation, evaluation, the audit, and the workers."""

from dataclasses import dataclass

from ttsgan.config.checks import require, require_least


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterConfig:
    """Groups of latents and the conditions made from them."""

    min_group_size: int = 15
    """Smallest number of distinct entities in a group, and of those averaged into a condition; 10 or more."""
    groups: int = 0
    """Number of k-means clusters; 0: entities / (2 min_group_size), at least 2; otherwise 2 or more."""
    iterations: int = 20
    """Most Lloyd iterations; 1 or more."""
    probes: int = 0
    """Entities averaged into a condition; ``min_group_size`` or more; 0: all of the group. All are also averaged where
    one of the probes would dominate."""
    outlier_quantile: float = 0.99
    """Quantile of the distance to the nearest centroid, above 0.5, up to 1; latents beyond it enter no condition."""
    max_dominance: float = 0.15
    """Largest share that one entity may have in the sum of levels of its group; above 0, up to 1."""

    def __post_init__(self) -> None:
        require_least(self, "cluster", 10, "min_group_size")
        require_least(self, "cluster", 1, "iterations")
        require(self.groups == 0 or self.groups >= 2, "cluster.groups", self.groups, "0 (automatic) or 2 or more")
        ok = self.probes == 0 or self.probes >= self.min_group_size
        require(
            ok,
            "cluster.probes",
            self.probes,
            f"0 (all) or at least cluster.min_group_size ({self.min_group_size})",
        )
        require(
            0.5 < self.outlier_quantile <= 1,
            "cluster.outlier_quantile",
            self.outlier_quantile,
            "above 0.5, up to 1",
        )
        require(0 < self.max_dominance <= 1, "cluster.max_dominance", self.max_dominance, "above 0, up to 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateConfig:
    """Number of synthetic series, and the chunks in which they are drawn."""

    series: int = 0
    """Series to write; 0: as many as there are training entities. The audit needs 12, and about 3,100 for a PASS."""
    chunk: int = 512
    """Series drawn together from one seed and written as one part; 1 or more. The series depend on this number, not on
    the number of workers."""

    def __post_init__(self) -> None:
        require_least(self, "generate", 1, "chunk")
        require(self.series >= 0, "generate.series", self.series, "0 (as many as training entities) or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """Size of the fidelity evaluation."""

    max_series: int = 1_000
    """Most series on each side of a distance; 10 or more."""
    bootstrap: int = 200
    """Bootstrap resamples of entities for each confidence interval; 20 or more."""
    classifier_series: int = 400
    """Most series per side for the classifiers and the forecasting models; 10 or more; 0 skips both."""
    classifier_seeds: int = 5
    """Times that each classifier is trained, each time tested on another fold of entities; 1 or more."""

    def __post_init__(self) -> None:
        require_least(self, "evaluate", 10, "max_series")
        require_least(self, "evaluate", 20, "bootstrap")
        require_least(self, "evaluate", 1, "classifier_seeds")
        ok = self.classifier_series == 0 or self.classifier_series >= 10
        require(ok, "evaluate.classifier_series", self.classifier_series, "0 (leave out) or 10 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditConfig:
    """Limits of the release gate; each is compared with a one-sided 95 % bound."""

    max_targets: int = 5_000
    """Most members, and most non-members, that are attacked; 100 or more."""
    auc: float = 0.55
    """Largest area under the ROC curve of membership inference; above 0.5, below 1."""
    tpr: float = 0.02
    """Largest true positive rate at a false positive rate of 1 %; above 0.01, below 1."""
    outlier_tpr: float = 0.05
    """Largest such rate among the series farthest from all others; above 0.01, below 1."""
    soft_copies: float = 0.001
    """Largest share of synthetic series nearer to a training series than chance explains; 0 to 1, exclusive."""
    fragments: float = 0.01
    """Largest share of synthetic series that contain days or weeks of training series, in excess of the control; 0 to
    1, exclusive."""
    linkage_risk: float = 0.09
    """Largest residual risk that known weeks link a household to a synthetic series, or reveal an attribute of it; 0 to
    1, exclusive."""

    def __post_init__(self) -> None:
        require_least(self, "audit", 100, "max_targets")
        require(0.5 < self.auc < 1, "audit.auc", self.auc, "between 0.5 and 1")
        for name in ("tpr", "outlier_tpr"):
            require(0.01 < getattr(self, name) < 1, f"audit.{name}", getattr(self, name), "between 0.01 and 1")
        for name in ("soft_copies", "fragments", "linkage_risk"):
            require(0 < getattr(self, name) < 1, f"audit.{name}", getattr(self, name), "between 0 and 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class RuntimeConfig:
    """Number of workers, and the resources of each."""

    num_workers: int = 2
    """Training workers (processes), 0 or more; 0 trains in the driver without Ray."""
    min_workers: int = 0
    """Fewest training workers to continue with when machines are lost, up to ``num_workers``; 0 always waits for all of
    ``num_workers``."""
    use_gpu: bool = False
    """Whether each training and generation worker gets one GPU."""
    cpus_per_worker: int = 1
    """CPUs, and so compute threads, of each worker; 1 or more."""
    max_failures: int = 2
    """Losses of training workers that a run survives; one more ends it; 0 or more."""
    scale_up_seconds: int = 0
    """Seconds to wait for an autoscaler to provide the machines; 0 refuses at once when they are not there."""
    max_concurrent_trials: int = 1
    """Trials of a search that run at the same time; 1 or more."""

    def __post_init__(self) -> None:
        require_least(self, "runtime", 0, "num_workers", "scale_up_seconds", "max_failures")
        require_least(self, "runtime", 1, "cpus_per_worker", "max_concurrent_trials")
        allowed = f"0 (not elastic) to runtime.num_workers ({self.num_workers})"
        require(0 <= self.min_workers <= self.num_workers, "runtime.min_workers", self.min_workers, allowed)
