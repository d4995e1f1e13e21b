"""AWS SageMaker: the train stage as a job, on one or more instances; its model as an endpoint.

`settings` reads sagemaker.yaml, `aws` speaks with AWS and says what its errors mean, `bundle` packs
the code, `request` words the job. `job` submits, follows and lists; `fetch` brings the model back,
and does all of that for the stage; `deploy` makes endpoints. `container` runs inside the container,
before anything is installed there.
"""
