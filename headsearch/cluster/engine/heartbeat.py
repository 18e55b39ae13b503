"""The heartbeat of a claimed task, in a thread of its own."""

from __future__ import annotations

import threading
import time
from types import TracebackType

from headsearch.cluster.engine.queue import Claim, TakenOverError
from headsearch.runs.storage import reason_of


class Pulse:
    """Beats for a claim in a thread of its own, from the start of the block to its end.

    Attributes:
        lost: why the task is not the worker's any more; None while it is.
    """

    def __init__(self, claim: Claim, heartbeat: float, grace: float) -> None:
        self.lost: str | None = None
        self._claim, self._heartbeat, self._grace = claim, heartbeat, grace
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="heartbeat", daemon=True)

    def __enter__(self) -> Pulse:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._over.set()
        self._thread.join(timeout=self._heartbeat)

    def _go_on(self) -> None:
        heard = time.monotonic()
        while True:
            try:
                self._claim.beat()
                heard = time.monotonic()
            except TakenOverError as error:
                self.lost = str(error)
                return
            except Exception as error:  # each kind of storage has errors of its own
                if time.monotonic() - heard > self._grace:
                    self.lost = f"the storage was out of reach: {reason_of(error)}"
                    return
            if self._over.wait(self._heartbeat):
                return
