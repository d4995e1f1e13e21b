"""AWS SageMaker: the stage train as a job; its model as an endpoint."""
