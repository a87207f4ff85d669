"""A real Dask cluster of a scheduler and two workers, for tests."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from dmq import engine


ROOT = Path(__file__).parent.parent


class Cluster:
    """A scheduler and workers as `dask scheduler` and `dask worker` start them, each a process
    that can be killed.
    """

    def __init__(self, folder):
        self.file = folder / "scheduler.json"
        self.scheduler = self.start(
            "scheduler",
            "--port",
            "0",
            "--host",
            "127.0.0.1",
            "--no-dashboard",
            "--scheduler-file",
            str(self.file),
        )
        while not self.file.exists():
            assert self.scheduler.poll() is None
            time.sleep(0.05)
        self.address = json.loads(self.file.read_text())["address"]
        self.workers = [self.worker() for _ in range(2)]

    def start(self, *command):
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            [sys.executable, "-m", "dask", *command],
            env=environment,
            cwd=self.file.parent,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def worker(self):
        return self.start("worker", self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard")

    def whole(self):
        """Wait until there are two workers, starting those that were killed."""
        self.workers = [self.worker() if one.poll() is not None else one for one in self.workers]
        with engine._connected(self.address) as client:
            client.wait_for_workers(2)
        return self

    def kill_one(self):
        """One of the two workers is gone, with whatever it was doing."""
        self.workers[0].kill()
        self.workers[0].wait()

    def close(self):
        for process in (*self.workers, self.scheduler):
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
