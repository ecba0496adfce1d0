"""The process that runs one contestant for one round, and nothing else: so no contestant pays for
the memory, the threads or the caches of another.

It ends, with its workers, when its standard input does: that is how it learns that the program
that started it has gone, however it went.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from bild_dist import log
from bild_dist.errors import BildError
from bild_dist.evaluation.bench.job import Job, Outcome, refusal
from bild_dist.evaluation.run.files import write_whole

if TYPE_CHECKING:
    from bild_dist.orchestrator.cli import InProcess


def main(job: str, answer: str, inproc: InProcess) -> int:
    """Does what the file `job` says and writes the file `answer`. Exit code 130 when interrupted."""
    # A shell starts what runs in its background with this signal ignored, and that is inherited.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_watch_parent, daemon=True).start()
    log.configure()
    try:
        outcome = _run(Job.read(Path(job)), inproc)
    except KeyboardInterrupt:
        return 130
    write_whole(Path(answer), json.dumps(outcome))
    return 0


def _run(job: Job, inproc: InProcess) -> Outcome:
    try:
        if job.contestant.peer is not None:
            from bild_dist.evaluation.bench import peers

            return peers.measure(job)
        from bild_dist.evaluation.bench import ours

        return asyncio.run(ours.measure(job, inproc))
    except BildError as error:
        return refusal(error)


def _watch_parent() -> None:
    # Not through sys.stdin: a thread that waits in it cannot be left behind at the end.
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGINT)
