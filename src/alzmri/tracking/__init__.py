"""The run as W&B sees it. A process of its own talks to W&B: training never waits for it."""

from alzmri.tracking.follower import Follower, following

__all__ = ["Follower", "following"]
