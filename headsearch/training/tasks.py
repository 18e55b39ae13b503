"""`TaskScoring`: the further tasks of a run (`--tasks`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from headsearch.config.normalization import Normalization
from headsearch.config.settings import RunConfig
from headsearch.config.task_settings import tasks_of
from headsearch.data import Data
from headsearch.data.settings import DataSettings
from headsearch.data.tasks import fingerprint, open_tasks
from headsearch.evaluation.proxies.grouped_scores import GroupedScores
from headsearch.evaluation.tasks import TaskScorer
from headsearch.models.bases import BaseOutput
from headsearch.models.network import Network
from headsearch.runs.console import Loading
from headsearch.training.other_data import OtherDataScoring


@dataclass(frozen=True)
class TaskScoring(OtherDataScoring):
    """The further tasks of a run.

    Attributes:
        scorer: the tasks and their proxies.
        summary: from the base's output to the features (B, D) of a sample.
    """

    scorer: TaskScorer
    summary: Callable[[BaseOutput], Tensor]

    @property
    def notes(self) -> Iterator[str]:
        for task in self.scorer.tasks:
            yield from task.notes

    def of_network(
        self,
        network: Network,
        heads: Sequence[str],
        *,
        autocast: bool,
        normalization: Normalization,
        on_share: Callable[[float], object] = lambda _: None,
    ) -> Mapping[str, GroupedScores]:
        return self.scorer.of_network(
            network, heads, self.summary, autocast=autocast, normalization=normalization,
            on_share=on_share,
        )  # fmt: skip


def open_task_scoring(
    config: RunConfig,
    data: Data,
    settings: DataSettings,
    summary: Callable[[BaseOutput], Tensor],
    batch_size: int,
    loading: Loading,
) -> TaskScoring | None:
    """Opens the tasks of a run; None without `--tasks`.

    Args:
        config: the settings.
        data: of the run, which decide the form of all samples.
        settings: those that the data were opened with.
        summary: from the base's output to the features (B, D) of a sample.
        batch_size: samples in a forward pass.
        loading: told what is being loaded.

    Raises:
        UserError: a task cannot be used.
    """
    specs = tasks_of(config.tasks)
    if not specs:
        return None
    assert data.form is not None
    loading(f"opening the tasks {', '.join(spec.name for spec in specs)}")
    tasks = open_tasks(specs, settings, data.form, data.left_out)
    return TaskScoring(fingerprint(tasks), TaskScorer(tasks, batch_size), summary)
