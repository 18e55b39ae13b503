"""`Result.explain`: the Python view of what a base learned from its head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from headsearch.config.keywords import api_function
from headsearch.pretraining.explaining.session import Explained, explained
from headsearch.report.document import write_report
from headsearch.report.findings import read_findings
from headsearch.report.result import RunView
from headsearch.report.session import console_for
from headsearch.runs.run import read_run
from headsearch.training import distributed
from headsearch.training.inputs import NO_INPUTS, InMemoryInputs


@dataclass(frozen=True, repr=False)
class ExplainableView(RunView):
    """A search, complete or not, read from its run directory, whose heads can be explained.

    Attributes:
        inputs: the objects that the search was started with in Python, which no file holds.
    """

    inputs: InMemoryInputs = field(default=NO_INPUTS)

    @property
    def findings(self) -> pd.DataFrame:
        """findings.csv of `explain`: a row for each head, measure and block; empty before it."""
        return read_findings(self.run)

    @api_function()
    def explain(
        self,
        head: str | None = None,
        *,
        top: int = 3,
        only: Sequence[str] = (),
        device: str = "auto",
        progress: bool | None = None,
    ) -> Explained:
        """Says what the base learned from its head, and where: `headsearch explain`.

        Args:
            head: the head in question; by default the best verified ones.
            top: how many of these.
            only: names of analyses (change, toward, reach, frequency, probes, cues, decisions,
                looks); all by default.
            device: auto, cpu, cuda, cuda:1, ….
            progress: whether to show progress; by default only in a terminal or notebook.

        Returns:
            The findings, with the folder of tables and pictures.

        Raises:
            UserError: no solo runs of this head and of no head, or an unknown analysis.
        """
        distributed.check_one_process("explain")
        names = only.split(",") if isinstance(only, str) else only
        console = console_for(progress)
        found = explained(
            read_run(self.run_directory), head=head, top=top, only=names, device=device,
            inputs=self.inputs, console=console,
        )  # fmt: skip
        write_report(read_run(self.run_directory))
        return found
