"""AWS as the user reaches it."""

import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

from alzmri.errors import UserError
from alzmri.sagemaker import faults

POLL_SECONDS = 2

Answer = Mapping[str, Any]


class Service:
    """AWS in one region, with the user's own credentials.

    Raises:
        UserError: when its package is not installed.
    """

    def __init__(self, region: str) -> None:
        if find_spec("boto3") is None:
            raise UserError("boto3 is missing: `pip install 'alzmri[sagemaker]'`, or `make setup`")
        self.region = region
        self._clients: dict[str, Any] = {}

    def client(self, name: str) -> Any:
        """boto3's client of the service ``name``, always the same one."""
        import boto3
        from botocore.config import Config

        # Attempts wait longer each time: a throttled call is no reason to give up on a long job.
        config = Config(
            connect_timeout=10,
            read_timeout=30,
            retries={"mode": "standard", "total_max_attempts": 4},
        )
        if name not in self._clients:
            session = boto3.Session(region_name=self.region)
            with faults.explained():
                self._clients[name] = session.client(name, config=config)
        return self._clients[name]

    def wait(self, waiter: str, on_answer: Callable[[Answer], None], **resource: str) -> Answer:
        """Wait with boto3's ``waiter`` until all is over, well or not; the last answer.

        Args:
            waiter: such as ``endpoint_in_service``.
            on_answer: called with each answer that the waiter gets.
            resource: what to wait for, in the words of the operation that the waiter repeats.
        """
        from botocore.exceptions import ClientError, WaiterError

        last: Answer = {}

        def note(parsed: Answer, **_: object) -> None:
            nonlocal last
            if "Error" not in parsed:
                last = parsed
                on_answer(parsed)

        client = self.client("sagemaker")
        events = client.meta.events
        events.register("after-call.sagemaker", note)
        patience = {"Delay": POLL_SECONDS, "MaxAttempts": sys.maxsize}
        try:
            with faults.explained():
                try:
                    client.get_waiter(waiter).wait(WaiterConfig=patience, **resource)
                except WaiterError as error:  # also how a job that failed ends
                    if "Error" in error.last_response:
                        raise ClientError(error.last_response, waiter) from error
        finally:
            events.unregister("after-call.sagemaker", note)
        return last
