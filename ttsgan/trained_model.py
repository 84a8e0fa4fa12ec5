"""A trained model: what the folder ``checkpoints/model`` of a run holds. It encodes, judges and samples series.

Kept apart from `ttsgan.api`, so that processes that only use a model need not load what trains one.

Axis letters: B series, C channels, L points, Z latent.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray

from ttsgan import recipes
from ttsgan.config import RunConfig
from ttsgan.data.scaling import SeriesScaler
from ttsgan.errors import ConfigError, DataError
from ttsgan.models.networks import Networks, SeriesShape
from ttsgan.synthesis import Synthesizer
from ttsgan.training.dataset import TrainSet, build_train_set
from ttsgan.training.runtime import LocalRuntime
from ttsgan.training.transitions import encode_all


@dataclass(frozen=True)
class Model:
    """A trained model: averaged networks, scaler, configuration. It encodes and samples on its networks' device."""

    networks: Networks
    scaler: SeriesScaler
    config: RunConfig

    def encode(self, values: NDArray[np.float32], starts: NDArray) -> NDArray[np.float32]:
        """Return the latents (B, Z), which are posterior means, of series (B, C, L) in physical units."""
        return encode_all(self.networks, self._scaled(values, starts), LocalRuntime()).cpu().numpy()

    @torch.no_grad()
    def discriminate(
        self, values: NDArray[np.float32], starts: NDArray, cond: NDArray[np.float32], chunk: int = 64
    ) -> NDArray[np.float32]:
        """Return the discriminator's global logits (B,) of series (B, C, L) given conditions (B, Z)."""
        data = self._scaled(values, starts)
        cond_BZ = self.networks.standard_latents(torch.from_numpy(cond).float().to(self.networks.device))
        parts = [
            self.networks.discriminator(data.scores[rows], data.calendar_of(rows), cond_BZ[rows])[0]
            for rows in torch.arange(len(data)).split(chunk)
        ]
        return torch.cat(parts).cpu().numpy()

    def _scaled(self, values: NDArray[np.float32], starts: NDArray) -> TrainSet:
        nobody = np.zeros(len(values), dtype=str)
        return build_train_set(values, starts, nobody, self.scaler, self.config).to(self.networks.device)

    def synthesizer(self) -> Synthesizer:
        """Return the sampler of new series."""
        return Synthesizer(self.networks, self.scaler, self.config.seed)

    def files(self) -> dict[str, bytes]:
        """Return the model as named files; `load` reads them."""
        networks = {k: v.detach().cpu().contiguous().clone() for k, v in self.networks.state_dict().items()}
        about = {
            "config": recipes.to_dict(self.config),
            "step_seconds": self.scaler.step_seconds,
            "shape": {name: getattr(self.networks.shape, name) for name in SeriesShape.__dataclass_fields__},
        }
        return {
            "networks.safetensors": safetensors.torch.save(networks),
            "scaler.safetensors": self.scaler.to_bytes(),
            "model.json": json.dumps(about, indent=2).encode(),
        }

    @classmethod
    def load(cls, read: Callable[[str], bytes], device: str = "cpu") -> "Model":
        """Load a model onto ``device``; ``read`` returns the content of a file by name.

        Raises
        ------
        DataError
            If another version of ttsgan wrote them.
        """
        about = json.loads(read("model.json"))
        try:
            config, shape = recipes.from_dict(about["config"]), SeriesShape(**about["shape"])
        except (ConfigError, TypeError) as error:
            raise DataError(f"model.json is of another version of ttsgan ({error}); train again") from error
        networks = Networks(config, shape).eval().requires_grad_(False)
        try:
            networks.load_state_dict(safetensors.torch.load(read("networks.safetensors")))
        except RuntimeError as error:
            why = " ".join(str(error).split())
            raise DataError(f"networks.safetensors is of another version of ttsgan ({why}); train again") from error
        scaler = SeriesScaler.from_bytes(read("scaler.safetensors"), config.household, about["step_seconds"])
        return cls(networks.to(device), scaler, config)
