"""The model over HTTP: an API, a SageMaker endpoint's container, and a page for a browser."""
