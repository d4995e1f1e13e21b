"""The stage train as a job: what ``compute.train_on: sagemaker`` does.

So DVC's experiments and its queue run on AWS as they run here, as many at once as it has workers.
"""

from alzmri import terminal
from alzmri.params import Params
from alzmri.sagemaker import request, settings
from alzmri.sagemaker.fetch import bring
from alzmri.sagemaker.job import console, follow, submit
from alzmri.sagemaker.service import Service


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
    work = request.gather(wanted, params)
    job = submit(service, wanted, work)
    terminal.say(f"job {job.name}: {console(wanted.region, job.name)}")
    bring(service, follow(service, job.name), work)
