"""The same on a real account, for whoever has one: collected only when asked for.

    ALZMRI_TEST_AWS=1 AWS_PROFILE=… AWS_REGION=… ALZMRI_SAGEMAKER_ROLE=arn:… \
    ALZMRI_SAGEMAKER_BUCKET=… pytest -k real_account

One on-demand job of a few minutes on a small CPU instance, which costs money.
"""

import os

from ruamel.yaml import YAML

if os.environ.get("ALZMRI_TEST_AWS"):

    def test_sagemaker_on_a_real_account(clone):
        yaml = YAML()
        content = yaml.load((clone.root / "sagemaker.yaml").read_text())
        content.update(instance_type="ml.c7i.xlarge", spot=False, max_hours=1, prefix="alzmri-test")
        with (clone.root / "sagemaker.yaml").open("w") as handle:
            yaml.dump(content, handle)
        # Clones hide the variables of AWS from what they run; here they are wanted.
        variables = [f"{key}={value}" for key, value in os.environ.items() if key[:4] == "AWS_"]

        def alzmri(*words):
            return clone.run("env", *variables, "alzmri", "sagemaker", *words).stdout

        alzmri("submit")
        assert "epoch 3/3" in alzmri("logs", "--follow")
        alzmri("fetch")
        assert "Stage 'train' didn't change" in clone.run("dvc", "repro").stdout
