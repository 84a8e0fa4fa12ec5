"""Consistency checks across data-parallel workers, and the digest that ties a checkpoint to its series.

Each worker computes gradients on its own rows of a batch that it assumes to be the same on all workers, and updates its
own copy of the networks. No step would notice a worker that deviates: all would continue with different weights, or
with batches that do not belong together.
"""

import torch
from torch import Tensor

from ttsgan import recipes
from ttsgan.config import RunConfig
from ttsgan.data.scaling import SeriesScaler
from ttsgan.errors import ConfigError, DivergedError
from ttsgan.seeds import digest_of, seed_of
from ttsgan.training.dataset import TrainSet
from ttsgan.training.runtime import Runtime
from ttsgan.training.state import CHECKED_SECTIONS, TrainState

CHUNK = 2**20
"""Values of a tensor per checksum block, to bound the memory."""


def series_digest(data: TrainSet, scaler: SeriesScaler) -> str:
    """Return a digest of the training series: their entities, their starts, and the scaler fitted on them."""
    labels = "\0".join([*data.entities.astype(str), *data.starts.astype(str)])
    return digest_of(labels.encode() + scaler.to_bytes())


def check_same_run(config: RunConfig, data: TrainSet, dtype: torch.dtype, runtime: Runtime) -> None:
    """Compare settings, the ``dtype`` of products, and series and their order across workers. Collective.

    The values of the series are not compared: another kind of machine may round them differently.

    Raises
    ------
    ConfigError
        Names the first item that differs, and the workers whose item differs from worker 0's.
    """
    if runtime.world_size == 1:
        return
    told: dict[str, object] = {
        name: value for name, value in recipes.flat(config).items() if name.split(".")[0] in CHECKED_SECTIONS
    }
    told |= {
        "training.precision, which is set by the kind of machine": dtype,
        "number of training series": len(data),
        "shape of the training series": data.shape,
        "entities of the training series": digest_of("\0".join(data.entities.astype(str)).encode()),
        "starts of the training series": digest_of(data.starts.astype("datetime64[s]").tobytes()),
        "series kept for validation": digest_of(data.validation.cpu().numpy().tobytes()),
    }
    own = torch.tensor([seed_of(name, repr(value)) for name, value in told.items()], device=runtime.device)
    found = _first_difference(own, runtime)
    if found:
        name = list(told)[found[0]]
        raise ConfigError(
            f"{name}: worker {found[1]} differs from worker 0; start all workers with one configuration, and let "
            "them read one run folder, in a storage that all machines share"
        )


def check_equal(state: TrainState, runtime: Runtime) -> None:
    """Compare progress, and checksums of networks, averages, buffers and samples across workers. Collective.

    Raises
    ------
    DivergedError
        Names the first item that differs, and the workers whose item differs from worker 0's.
    """
    if runtime.world_size == 1:
        return
    far = [state.stage, state.series_seen, state.rollbacks, state.best_loss, state.diversity]
    held = [("the progress of training", [torch.tensor(far, dtype=torch.float64)])]
    for kind, networks in (("networks", state.networks), ("average", state.average)):
        for name, child in networks.named_children():
            held.append((f"the weights of {kind}.{name}", list(child.state_dict().values())))
        held += [(f"the weights of {kind}.{name}", [b]) for name, b in networks.named_buffers(recurse=False)]
    held.append(("the conditions and draws of the prior", [state.drawn[name] for name in sorted(state.drawn)]))
    found = _first_difference(torch.stack([_checksum(tensors, runtime.device) for _, tensors in held]), runtime)
    if found:
        raise DivergedError(
            f"{held[found[0]][0]}: worker {found[1]} differs from worker 0 after {state.total_series} series; "
            "run the same command again to go on from the last checkpoint"
        )


def _first_difference(own: Tensor, runtime: Runtime) -> tuple[int, str] | None:
    """Return the index of the first of ``own`` (K,), int64, that differs from rank 0's, and those ranks. Collective."""
    all_of_them = runtime.gather(own[None])
    differs = (all_of_them != all_of_them[0]).cpu()
    if not differs.any():
        return None
    first = int(differs.any(0).nonzero()[0])
    return first, ", ".join(str(int(rank)) for rank in differs[:, first].nonzero())


def _checksum(tensors: list[Tensor], device: torch.device) -> Tensor:
    """Return a weighted sum of the bit patterns of tensors, int64 with wraparound.

    The weights are consecutive odd numbers, so that swapping two values changes the sum.
    """
    total = torch.zeros((), dtype=torch.int64, device=device)
    for held in tensors:
        whole = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}[held.element_size()]
        for bits in held.detach().contiguous().view(-1).view(whole).split(CHUNK):
            weights = torch.arange(1, 2 * len(bits), 2, device=bits.device)
            total = 31 * total + (bits.long() * weights).sum().to(device)
    return total
