"""The label permutation test: labels say nothing, so only a leak scores above chance."""

from collections.abc import Sequence

import numpy as np


def permuted(labels: Sequence[str], subjects: Sequence[str], seed: int) -> list[str]:
    """The label of each image after the labels were permuted between subjects.

    All images of a subject get one label: the most frequent one (ties by name) of the subject
    whose label it receives. Each label keeps its number of subjects. The order of the images does
    not change the result.
    """
    votes: dict[str, list[str]] = {}
    for label, subject in zip(labels, subjects, strict=True):
        votes.setdefault(subject, []).append(label)
    names = sorted(votes)
    own = [max(sorted(set(votes[name])), key=votes[name].count) for name in names]
    order = np.random.default_rng(seed).permutation(len(names))
    given = {name: own[other] for name, other in zip(names, order, strict=True)}
    return [given[subject] for subject in subjects]
