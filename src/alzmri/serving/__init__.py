"""The model over HTTP: an API, which is SageMaker's too, and a page for a browser."""
