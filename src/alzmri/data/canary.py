"""Labels that say nothing: what a model then still scores, it scores by recognising people."""

from collections.abc import Sequence

import numpy as np


def shuffled(labels: Sequence[str], subjects: Sequence[str], seed: int) -> list[str]:
    """The label of each image after people have drawn each other's labels by lot.

    All images of a person get the same label, the most frequent one (ties by name) of the person
    drawn: as many people as before have each label. The answer does not depend on the order of
    the images.
    """
    votes: dict[str, list[str]] = {}
    for label, subject in zip(labels, subjects, strict=True):
        votes.setdefault(subject, []).append(label)
    people = sorted(votes)
    own = [max(sorted(set(votes[person])), key=votes[person].count) for person in people]
    drawn = np.random.default_rng(seed).permutation(len(people))
    given = {person: own[other] for person, other in zip(people, drawn, strict=True)}
    return [given[subject] for subject in subjects]
