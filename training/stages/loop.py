"""What a fit loop keeps, so that a stage which was interrupted goes on as if nothing had happened.

    loop = Loop(path, {"trunk": trunk, "space": space}, optimiser)     # takes up what lies at path, if anything
    while loop.place.epoch < epochs:
        for batch in batches(skip=loop.place.batch):
            ...                        # one step
            loop.step()                # now and then writes everything
        loop.check("the trunk", "trunk.learning_rate", loss)
        loop.keep_if_best(ndcg)        # on validation
        loop.next_epoch({"loss": loss, "ndcg@10": ndcg})
    loop.finish()                      # the best comes back, and the stage is kept as done

Everything is weights, the optimiser's moments, the best weights so far, the states of the random generators and the
place in the epoch: 2N steps equal N, a kill and N to the bit on a CPU. It is one file of safetensors whose metadata
holds the numbers as JSON, written beside its place, made durable and renamed into it. This module knows no data and
no recommender. Without a path nothing is kept.
"""

from __future__ import annotations

import json
import math
import os
import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from model.bundle import sync

EVERY = 30.0  # seconds between two writings within an epoch; 0 writes after every step, for tests
SHARE = 0.05  # of the time that writing may take


@dataclass
class Place:
    """Where a loop is. batch: steps of the epoch that are done; step: of all; sums: what an epoch adds up."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    sums: list[float] = field(default_factory=list)
    epochs: list[dict[str, float]] = field(default_factory=list)
    best: float | None = None
    best_epoch: int = 0  # from 1
    best_weight: float = 0.0  # of the mixture, where a loop chooses one
    finished: bool = False


class Loop:
    """The state of one fit loop. generator: of the stage, beside torch's own; device: whose generator is kept too."""

    def __init__(
        self,
        path: Path | None,
        modules: Mapping[str, nn.Module],
        optimiser: torch.optim.Optimizer,
        *,
        generator: torch.Generator | None = None,
        device: str = "cpu",
        every: float = EVERY,
    ) -> None:
        self._path, self._modules, self._optimiser = path, modules, optimiser
        self._generator, self._device, self._every = generator, torch.device(device), every
        self._best: dict[str, Tensor] = {}
        self._earlier = 0.0
        self.place = Place()
        self._started = self._written = time.monotonic()
        self._cost = 0.0
        if path is not None and path.exists():
            self._restore(*read(path))

    def step(self) -> None:
        """After every step. Writes where the last writing is long enough ago."""
        self.place.batch += 1
        self.place.step += 1
        if self._due(self._every):
            self._write()

    def check(self, whose: str, setting: str, *numbers: float) -> None:
        """Before an epoch is kept. Raises ValueError, with what to lower, where one of its numbers is not finite."""
        if not all(map(math.isfinite, numbers)):
            raise ValueError(f"{whose}'s loss is not finite in epoch {self.place.epoch + 1}: lower {setting}")

    def keep_if_best(self, reached: float, weight: float = 0.0) -> None:
        """The weights as they are come back at the end, where none before reached as much. weight: of the mixture."""
        place = self.place
        if place.best is None or reached > place.best:
            place.best, place.best_epoch, place.best_weight = reached, place.epoch + 1, weight
            self._best = {name: tensor.detach().clone() for name, tensor in self._weights()}

    def next_epoch(self, values: dict[str, float]) -> None:
        """After the last step of an epoch, with what was measured. Writes, unless epochs are shorter than that."""
        self.place.epochs.append(values)
        self.place.epoch += 1
        self.place.batch = 0
        self.place.sums = []
        if self._due(0.0):
            self._write()

    def finish(self) -> None:
        """Brings the best weights back, where there are any, and keeps the stage as done."""
        if self._best:
            _load(self._modules, self._best)
        if not self.place.finished:
            self.place.finished = True
            self._write()

    # ------------------------------------------------------------------------------------------------------------

    def _weights(self) -> Iterator[tuple[str, Tensor]]:
        for module, network in self._modules.items():
            frozen = _frozen(network)
            for name, tensor in network.state_dict().items():
                if name not in frozen:
                    yield f"{module}/{name}", tensor

    def _due(self, every: float) -> bool:
        passed = time.monotonic() - self._written
        return self._path is not None and (self._every == 0 or passed >= max(every, self._cost / SHARE))

    def _write(self) -> None:
        if self._path is None:
            return
        began = time.monotonic()
        tensors = {f"now/{name}": tensor for name, tensor in self._weights()}
        tensors |= {f"best/{name}": tensor for name, tensor in self._best.items()}
        if not self.place.finished:  # a stage that is done needs neither moments nor generators
            for number, moments in self._optimiser.state_dict()["state"].items():
                tensors |= {f"optimiser/{number}/{name}": value for name, value in moments.items()}
            tensors["random/torch"] = torch.get_rng_state()
            if self._device.type == "cuda":
                tensors["random/device"] = torch.cuda.get_rng_state(self._device)
            if self._generator is not None:
                tensors["random/stage"] = self._generator.get_state()
        numbers = {
            "place": asdict(self.place),
            "seconds": self._earlier + time.monotonic() - self._started,
            "peak_rss_mib": peak_rss_mib(),
        }
        write(self._path, tensors, numbers)
        self._written = time.monotonic()
        self._cost = self._written - began

    def _restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        try:
            self.place = Place(**numbers["place"])
            self._earlier = numbers["seconds"]
            _load(self._modules, _below(tensors, "now/"))
            self._best = dict(_below(tensors, "best/"))
            if self.place.finished:
                return
            state: dict[int, dict[str, Tensor]] = {}
            for name, tensor in _below(tensors, "optimiser/").items():
                number, _, moment = name.partition("/")
                state.setdefault(int(number), {})[moment] = tensor
            groups = self._optimiser.state_dict()["param_groups"]
            self._optimiser.load_state_dict({"state": state, "param_groups": groups})
            torch.set_rng_state(tensors["random/torch"])
            if self._device.type == "cuda" and "random/device" in tensors:
                torch.cuda.set_rng_state(tensors["random/device"], self._device)
            if self._generator is not None:
                self._generator.set_state(tensors["random/stage"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{self._path} does not fit this run ({reason}): start over with --fresh") from error


@contextmanager
def own_randomness(seed: int, device: str = "cpu") -> Iterator[None]:
    """torch's generators seeded for a stage; the caller's states come back after it."""
    kind = torch.device(device)
    with torch.random.fork_rng(devices=[kind] if kind.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def write(path: Path, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
    """One durable file, replaced atomically. numbers: anything that JSON can hold."""
    new = path.with_name(path.name + ".new")
    # Copies: safetensors refuses names that share memory, as tied weights do.
    copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    save_file(copies, new, metadata={"numbers": json.dumps(numbers, allow_nan=False)})
    sync(new)
    os.replace(new, path)
    sync(path.parent)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write` wrote. Raises ValueError where the file is damaged."""
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
        return tensors, numbers_of(path)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged ({error}): start over with --fresh") from error


def numbers_of(path: Path) -> dict[str, Any]:
    """The numbers alone; the tensors stay unread. Somebody may be writing it anew."""
    try:
        with safe_open(path, "np") as file:  # for torch it opens the file twice, and may find two files
            numbers: dict[str, Any] = json.loads(file.metadata()["numbers"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}): start over with --fresh") from error
    return numbers


def peak_rss_mib() -> int:
    """Peak memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _load(modules: Mapping[str, nn.Module], tensors: Mapping[str, Tensor]) -> None:
    for module, network in modules.items():
        missing, unexpected = network.load_state_dict(_below(tensors, f"{module}/"), strict=False)
        if unexpected or set(missing) - _frozen(network):
            raise ValueError(f"it holds other weights of the {module}")


def _frozen(network: nn.Module) -> set[str]:
    """Names of the weights that training leaves as they were: whoever made the network knows them."""
    return {name for name, weight in network.named_parameters() if not weight.requires_grad}
