"""The train stage as a SageMaker training job: spot-safe, on one or more instances.

`settings` reads sagemaker.yaml, `bundle` packs the code, `request` words the job, `staging` uploads
what it needs, `job` talks to the service, `logs` follows it, `faults` says what AWS means, `fetch`
brings the model back. `entry`, `container` and `program` run inside the container, before anything
is installed there.
"""
