"""The stage train as a job: what ``compute.train_on: sagemaker`` does.

So DVC's experiments and its queue run on AWS as they run here, as many at once as it has workers.
"""

import hashlib
import json
import os
import re

from alzmri import terminal
from alzmri.params import Params
from alzmri.sagemaker import settings
from alzmri.sagemaker.fetch import bring
from alzmri.sagemaker.job import Job, Service, console, describe, require_success, with_name
from alzmri.sagemaker.logs import follow
from alzmri.sagemaker.submission import Submission, gather, send

_LABEL = 30
"""Characters of a job's name that come from the experiment's."""


def train_there(params: Params) -> None:
    """Train on SageMaker, and leave behind what the stage leaves behind.

    A job of the same code, data and parameters that is under way or complete is taken, not made
    again: killed and started again, the stage goes on following. Told to stop, it leaves the job.

    Raises:
        UserError: when sagemaker.yaml lacks something.
        EnvironmentFault: when the job failed or was stopped.
    """
    wanted = settings.load()
    settings.require(wanted)
    service = Service(wanted.region)
    name = _name(gather(wanted, params, None))
    job = _taken(service, name)
    if job is None:
        before = len(with_name(service, name))
        submission = gather(wanted, params, f"{name}-{before + 1}" if before else name)
        send(service, wanted, submission)
        job = describe(service, submission.name)
    terminal.say(f"job {job.name}: {console(wanted.region, job.name)}")
    try:
        job = follow(service, job.name)
    except BaseException:
        terminal.say(f"the job goes on: `alzmri sagemaker stop {job.name}` ends it")
        raise
    require_success(job)
    bring(service, job, params)


def _name(submission: Submission) -> str:
    """Of all jobs that do the same: after the experiment, and what decides how training goes."""
    label = os.environ.get("DVC_EXP_NAME") or "stage"
    label = re.sub(r"[^a-zA-Z0-9]+", "-", label)[:_LABEL].strip("-")
    same = json.dumps([submission.places.checkpoints, submission.places.prepared])
    return f"{label}-{hashlib.sha256(same.encode()).hexdigest()[:8]}"


def _taken(service: Service, name: str) -> Job | None:
    """The job that does it already or has done it; None when there is none."""
    for found in with_name(service, name):
        if found["TrainingJobStatus"] in ("InProgress", "Completed"):
            return describe(service, found["TrainingJobName"])
    return None
