"""A sweep whose trainings are jobs: each ends as an experiment of DVC's."""

GRID = ("train.lr=0.001,0.01", "train.epochs=2", "--on", "sagemaker")


def _sweep(cloud, *words, code=0):
    variables = [f"{key}={value}" for key, value in cloud.environment.items()]
    return cloud.clone.run("env", *variables, "alzmri", "sweep", *words, code=code)


def test_sagemaker_runs_the_trainings_of_a_sweep(cloud):
    cloud.clone.commit("an account")
    done = _sweep(cloud, *GRID, "-j", "2")
    assert "written: reports/sweep-lr/index.html" in done.stdout
    jobs = list(cloud.simulator.jobs)
    assert sorted(name.rpartition("-")[0] for name in jobs) == [
        "alzmri-sweep-lr-lr0-001",
        "alzmri-sweep-lr-lr0-01",
    ]

    # What ran there is, to the bit, what runs here.
    cloud.clone.run("dvc", "exp", "apply", "sweep-lr-lr0.01")
    there = cloud.digests()
    cloud.forget()
    cloud.edit("params.yaml", compute__train_on="here")
    cloud.clone.run("python", "src/train.py")
    assert cloud.digests() == there


def test_sagemaker_takes_a_job_that_is_complete(cloud):
    jobs = list(cloud.simulator.jobs)
    (job,) = (name for name in jobs if "-lr0-001-" in name)
    settings = ("-S", "train.lr=0.001", "-S", "train.epochs=2", "-S", "compute.train_on=sagemaker")
    cloud.clone.run("git", "checkout", "--force", ".")
    variables = [f"{key}={value}" for key, value in cloud.environment.items()]
    words = ("--name", "sweep-lr-lr0.001", "--force", *settings, "train")
    done = cloud.clone.run("env", *variables, "dvc", "exp", "run", "--force", *words)
    assert f"job {job}" in done.stdout
    assert list(cloud.simulator.jobs) == jobs


def test_sagemaker_without_an_account_nothing_runs(cloud):
    cloud.edit("sagemaker.yaml", role="")
    refused = _sweep(cloud, "train.lr=0.1", "--on", "sagemaker", code=2)
    assert "role: write its ARN there" in refused.stderr
    assert not (cloud.clone.root / ".dvc/tmp/sweep/sweep-lr-lr0.1.log").exists()
