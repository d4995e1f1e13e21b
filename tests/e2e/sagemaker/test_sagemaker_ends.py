"""Jobs of several hosts, and jobs that end otherwise than completed."""

import json
import signal

import pytest

from ...processes import limit

HOSTS = 2


@pytest.fixture
def quiet(cloud):
    """The cloud, with what a test changes of it put back."""
    yield cloud
    cloud.simulator.on_line, cloud.simulator.volume = (lambda *_: None), None
    cloud.clone.run("git", "checkout", "--quiet", "params.yaml")
    cloud.edit("sagemaker.yaml", instance_count=1, wandb_secret="")


def test_sagemaker_two_hosts_interrupted_end_as_two_processes_here(quiet):
    quiet.edit("params.yaml", train__epochs=12)
    quiet.clone.run("torchrun", "--nproc-per-node", str(HOSTS), "src/train.py")
    local = quiet.digests()
    quiet.edit("sagemaker.yaml", instance_count=HOSTS)
    seen = []

    def disturb(job, line):
        if line.startswith("epoch") and not seen:
            seen.append(line)
            job.containers.interrupt(grace=True)

    quiet.simulator.on_line = disturb
    done = quiet.sagemaker("submit", "--wait", "--name", "two-hosts")
    assert "(2 processes, 1 threads)" in done.stdout
    assert done.stdout.count("-- Interrupted") == 1
    assert "resuming in epoch" in done.stdout
    quiet.sagemaker("fetch")
    assert quiet.digests() == local


def test_sagemaker_a_stopped_job_is_taken_up_by_the_next(quiet):
    quiet.edit("params.yaml", train__epochs=20_000)
    said = []

    def stop(job, line):
        said.append(line)
        if line.startswith("epoch") and " 10/" in line:
            job.stop = True

    quiet.simulator.on_line = stop
    done = quiet.sagemaker("submit", "--wait", "--name", "first", code=1)
    assert "alzmri-first was stopped (Stopped): its checkpoint is kept" in done.stderr
    assert "was stopped" in quiet.sagemaker("status", code=1).stderr
    assert "was stopped" in quiet.sagemaker("fetch", code=1).stderr
    quiet.simulator.on_line = lambda *_: None
    waiting = quiet.start("submit", "--wait", "--name", "second")
    quiet.clone.read_until(waiting, "resuming in epoch")
    assert "alzmri-second is InProgress" in quiet.sagemaker("fetch", code=2).stderr
    waiting.send_signal(signal.SIGINT)
    left, _ = waiting.communicate(timeout=limit(60))
    assert waiting.returncode == 130
    assert "the job goes on" in left
    assert "alzmri-second is stopping" in quiet.sagemaker("stop").stdout
    quiet.sagemaker("logs", "--follow", code=1)
    assert quiet.simulator.jobs["alzmri-second"].status == "Stopped"
    assert "resuming in epoch" in quiet.sagemaker("logs").stdout


def test_sagemaker_a_failed_job_says_why(quiet):
    """In the trainer's own words; a secret that is not there costs a warning only."""
    quiet.edit("sagemaker.yaml", wandb_secret="nobody/knows")
    quiet.edit("params.yaml", train__lr=10.0, train__momentum=0.99)
    done = quiet.sagemaker("submit", "--wait", "--name", "diverges", code=1)
    why = "AlgorithmError: training diverged in epoch 1"
    assert f"alzmri-diverges failed: {why}" in done.stderr
    assert "Traceback" not in done.stderr
    assert "warning: no W&B key, the run is not tracked online: secret nobody/knows" in done.stdout
    status = quiet.sagemaker("status", code=1).stdout
    assert why in status
    assert "  failed: training diverged in epoch 1" in status
    found = json.loads(quiet.sagemaker("status", "--json", code=1).stdout)
    assert (found["state"], found["job"]) == ("Failed", "alzmri-diverges")
    assert found["last_lines"][-1].startswith("failed: training diverged in epoch 1")


def test_sagemaker_a_bucket_that_is_not_there_costs_nothing(quiet):
    quiet.edit("sagemaker.yaml", bucket="nobodys")
    done = quiet.sagemaker("submit", "--name", "homeless", code=2)
    quiet.edit("sagemaker.yaml", bucket="alzmri")
    assert done.stderr.startswith("error: there is no bucket nobodys: make it")
    assert "alzmri-homeless" not in quiet.simulator.jobs


def test_sagemaker_a_disk_that_fills_up_fails_with_the_setting_to_raise(quiet):
    quiet.simulator.volume = 1_000_000
    done = quiet.sagemaker("submit", "--wait", "--name", "full", code=1)
    assert "AlgorithmError: No space left on device" in done.stderr
    assert "raise volume_gb" in done.stderr


def test_sagemaker_a_killed_trainer_is_told_from_an_error(quiet):
    quiet.edit("params.yaml", train__epochs=20_001)

    def kill(job, line):
        if line.startswith("epoch") and " 3/" in line:
            job.containers.kill_trainers()

    quiet.simulator.on_line = kill
    done = quiet.sagemaker("submit", "--wait", "--name", "killed", code=1)
    assert "as when memory runs out" in done.stderr
