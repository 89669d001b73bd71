"""What a run is for: the trainer asks a task for all that is not the same for every kind of model.

`classification.CLASSIFICATION` is one; detection and segmentation are others, in packages above.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from lightning.fabric import Fabric
from torch import nn

from . import history
from .loaders import TrainingData
from .options import CommonOptions
from .trained import RecipeOfRun, TrainingModule

__all__ = ["Finished", "RunSettings", "Task"]


class RunSettings(Protocol):
    """What the trainer reads of a task's settings: options over recipe over model."""

    @property
    def recipe(self) -> RecipeOfRun: ...  # noqa: D102

    @property
    def model_name(self) -> str: ...  # noqa: D102

    @property
    def img_size(self) -> int: ...  # noqa: D102

    @property
    def batch_size(self) -> int: ...  # noqa: D102

    @property
    def total_batch(self) -> int: ...  # noqa: D102

    @property
    def accumulate(self) -> int: ...  # noqa: D102

    @property
    def epochs(self) -> int: ...  # noqa: D102

    @property
    def validate_every(self) -> int: ...  # noqa: D102

    @property
    def peak_lr(self) -> float: ...  # noqa: D102


OptionsT = TypeVar("OptionsT", bound=CommonOptions)
SettingsT = TypeVar("SettingsT", bound=RunSettings)


@dataclass(frozen=True)
class Finished:
    """What a run that is over has come to, for its report.

    Attributes
    ----------
    configuration : Mapping[str, Any]
        Of the run.
    rows, best
        As in `TrainingState`.
    weights : Path
        Of the best validation.
    """

    configuration: Mapping[str, Any]
    rows: Sequence[history.Row]
    best: Mapping[str, float] | None
    weights: Path


class Task(ABC, Generic[OptionsT, SettingsT]):
    """Builds and names what a run of its kind trains.

    Attributes
    ----------
    columns : tuple[str, ...]
        Of metrics.csv.
    exports_whole : bool
        Whether exported weights are those of a backbone with heads of their own.
    """

    columns: ClassVar[tuple[str, ...]] = history.COLUMNS
    exports_whole: ClassVar[bool] = False

    @abstractmethod
    def check_options(self, options: OptionsT) -> None:
        """Raise ValueError, which names it, where an option cannot be meant."""

    @abstractmethod
    def settings(
        self, options: OptionsT, processes: int, configuration: Mapping[str, Any] | None = None
    ) -> SettingsT:
        """Return the settings of a run on so many processes.

        Parameters
        ----------
        configuration : Mapping[str, Any] | None
            Of a run that is continued or repeated.

        Raises
        ------
        ValueError
            The recipe or the model is not known.
        """

    @abstractmethod
    def data(self, options: OptionsT, settings: SettingsT) -> TrainingData:
        """Return the data, which then know how many classes there are.

        Raises
        ------
        ValueError, RuntimeError
            They do not fit what trains on them, or a package is missing.
        """

    @abstractmethod
    def model(
        self, options: OptionsT, settings: SettingsT, data: TrainingData, pretrain_size: int | None
    ) -> Any:
        """Return the model with its first weights.

        Parameters
        ----------
        pretrain_size : int | None
            Of a model whose weights come later, from a checkpoint or another process; None for one
            that begins with the weights of the options, where these name any: the size is theirs.

        Raises
        ------
        ValueError
            The weights cannot be used.
        """

    @abstractmethod
    def module(
        self,
        options: OptionsT,
        settings: SettingsT,
        data: TrainingData,
        model: nn.Module,
        fabric: Fabric,
    ) -> TrainingModule:
        """Return what trains the model, which is on its device; the processes are connected."""

    @abstractmethod
    def described(self, settings: SettingsT, data: TrainingData, model: Any) -> dict[str, Any]:
        """Return what decides the result beside that which every run has; see `parts.describe`."""

    @abstractmethod
    def metadata(self, settings: SettingsT, data: TrainingData, model: Any) -> dict[str, str]:
        """Return what exported weights are told to be."""

    @abstractmethod
    def report(
        self,
        options: OptionsT,
        settings: SettingsT,
        data: TrainingData,
        model: Any,
        fabric: Fabric,
        run: Finished,
    ) -> str:
        """Return the page of a run that is over, made from all validation images."""

    def loss_scale(self, settings: SettingsT) -> float | None:
        """Return what losses of float16 are multiplied by, always; None lets a scaler find it."""
        return None
