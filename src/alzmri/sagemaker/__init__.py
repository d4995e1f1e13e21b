"""AWS SageMaker: the train stage as a job, on one or more instances; its model as an endpoint.

`settings` reads sagemaker.yaml, `service` speaks with AWS, `faults` says what AWS means, `bundle`
packs the code, `request` words the job, `storage` is the bucket. `job` submits, follows and lists;
`fetch` brings the model back, `stage` does all of that for DVC; `deploy` makes endpoints.
`container` and `program` run inside the container, before anything is installed there.
"""
