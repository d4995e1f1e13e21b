"""What the containers print, from CloudWatch."""

import re
import time
from collections.abc import Iterator

from alzmri import terminal
from alzmri.sagemaker import faults
from alzmri.sagemaker.job import Job, Service, describe

GROUP = "/aws/sagemaker/TrainingJobs"
POLL_SECONDS = 2.0
_EPOCH = re.compile(r"epoch +(\d+)/(\d+) ")


class Log:
    """The lines of one job, each given once."""

    def __init__(self, service: Service, name: str) -> None:
        self._service, self._name = service, name
        self._since = 0
        self._seen: set[str] = set()

    def new_lines(self) -> Iterator[str]:
        """Lines that came since the last call, by time; of several hosts each says which."""
        pages = self._service.logs.get_paginator("filter_log_events").paginate(
            logGroupName=GROUP, logStreamNamePrefix=f"{self._name}/", startTime=self._since
        )
        with faults.explained():
            try:
                events = [event for page in pages for event in page["events"]]
            except self._service.logs.exceptions.ResourceNotFoundException:
                return  # no container has started
        for event in events:
            if event["eventId"] in self._seen:
                continue
            self._seen.add(event["eventId"])
            # CloudWatch delivers late and out of order: the last minutes are asked for again.
            self._since = max(self._since, event["timestamp"] - 120_000)
            host = event["logStreamName"].partition("/")[2].rpartition("-")[0]
            line = event["message"].rstrip()
            yield line if host in ("", "algo-1") else f"[{host}] {line}"


def show(service: Service, name: str) -> None:
    """Print what there is."""
    for line in Log(service, name).new_lines():
        terminal.say(line)


def last_lines(service: Service, name: str, count: int = 10) -> list[str]:
    """The last ``count`` lines, where the cause of a failure is."""
    return list(Log(service, name).new_lines())[-count:]


def follow(service: Service, name: str) -> Job:
    """Print phases and lines as they come, with a bar of epochs on a terminal; the ended job."""
    log, told = Log(service, name), 0
    with terminal.progress("epochs", in_log=False) as progress:
        while True:
            job = describe(service, name)
            for phase in job.phases[told:]:
                terminal.say(f"-- {phase}")
            told = len(job.phases)
            said = False
            for line in log.new_lines():
                terminal.say(line)
                said = True
                if epoch := _EPOCH.match(line):
                    progress(int(epoch[1]), int(epoch[2]))
            if job.ended and not said:
                return job
            time.sleep(POLL_SECONDS)
