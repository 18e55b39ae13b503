"""headsearch in a job whose last process is killed after rung 1, as the system kills one."""

from __future__ import annotations

import os
import signal
from typing import Any

from headsearch import cli, torchrun
from headsearch.study import followers
from headsearch.study.job_commands import Score


def until_rung_2(hear: Any) -> Any:
    scored = 0

    def heard() -> object:
        nonlocal scored
        word = hear()
        scored += isinstance(word, Score)
        if scored == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return word

    return heard


if torchrun.rank() == torchrun.count() - 1:
    followers.distributed.receive_object = until_rung_2(followers.distributed.receive_object)
cli.main()
