"""A thread that sends the heartbeat of a claimed task while a worker works on it."""

from __future__ import annotations

import threading
import time
from types import TracebackType

from headsearch.cluster.engine.claims import Claim, TakenOverError
from headsearch.runs.storage import reason_of


class Pulse:
    """A context that sends the beats of a claim from a thread, from its start to its end.

    Args:
        claim: the claim.
        heartbeat: seconds between two beats.
        grace: seconds without a successful beat after which the claim is given up.

    Attributes:
        lost: the reason why the worker no longer has the task; None while it has.
    """

    def __init__(self, claim: Claim, heartbeat: float, grace: float) -> None:
        self.lost: str | None = None
        self._claim, self._heartbeat, self._grace = claim, heartbeat, grace
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat_until_over, name="heartbeat", daemon=True)

    def __enter__(self) -> Pulse:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._over.set()
        self._thread.join(timeout=self._heartbeat)

    def _beat_until_over(self) -> None:
        last_success = time.monotonic()
        while True:
            try:
                self._claim.beat()
                last_success = time.monotonic()
            except TakenOverError as error:
                self.lost = str(error)
                return
            except Exception as error:  # every kind of storage raises its own errors
                if time.monotonic() - last_success > self._grace:
                    self.lost = f"the storage was out of reach: {reason_of(error)}"
                    return
            if self._over.wait(self._heartbeat):
                return
