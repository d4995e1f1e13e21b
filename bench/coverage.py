"""How often the 95 % intervals hold the true score: simulated tests of models whose truth is known.

    python bench/coverage.py [--simulations 400] [--json FILE]

Each simulation draws a test of so many subjects, with fixed class sizes, from a model with known
rates of confusion, and asks alzmri.evaluation.intervals for its intervals. It prints a table in
Markdown for each kind of interval, and ends with 1 when one covers less than 0.93 anywhere.
"""

import argparse
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alzmri.evaluation import intervals, metrics
from alzmri.evaluation.intervals import Classified
from alzmri.evaluation.markdown import table
from alzmri.models.forward import probabilities

intervals.RESAMPLES = 1000  # half of them: twice as quick
LEAST = 0.93
SLICES = 6
"""Slices of each subject, in tests of slices."""
LIKENESS = 0.5
"""Sum of the Dirichlet from which each subject's rates are drawn: two slices of a subject are then
confused alike with a correlation of 1 / (1 + LIKENESS)."""
NEW = 20

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Model:
    """Shares of the classes in the test, and of what each class is taken for, in its row."""

    name: str
    shares: Array
    rates: Array


FOUR = Model(
    "four classes, balanced",
    np.full(4, 0.25),
    np.array([[0.93, 0.07, 0, 0], [0.3, 0.5, 0.2, 0], [0, 0.2, 0.68, 0.12], [0, 0, 0.05, 0.95]]),
)
REAL = Model(
    "four classes, mixed as in the public collection",
    np.array([90, 63, 25, 2]) / 180,
    np.array([[0.62, 0.32, 0.06, 0], [0.3, 0.55, 0.15, 0], [0.2, 0.4, 0.4, 0], [0, 0.5, 0.5, 0]]),
)
TWO = Model("two classes", np.full(2, 0.5), np.array([[0.7, 0.3], [0.31, 0.69]]))
GOOD = Model("two classes, nearly perfect", np.full(2, 0.5), np.array([[0.97, 0.03], [0.03, 0.97]]))
CHANCE = Model("four classes, guessed", np.full(4, 0.25), np.full((4, 4), 0.25))


def counts(model: Model, subjects: int) -> NDArray[np.int64]:
    """Subjects of each class, one at least: of about so many."""
    return np.maximum(np.round(model.shares * subjects).astype(int), 1)


def scores(confusion: Array) -> dict[str, float]:
    """The true scores for expected counts ``[actual, predicted]``."""
    hits = np.diagonal(confusion)
    f1 = 2 * hits / (confusion.sum(axis=0) + confusion.sum(axis=1))
    return {"macro_f1": float(f1.mean()), "accuracy": float(hits.sum() / confusion.sum())}


def drawn(
    rng: np.random.Generator, model: Model, sizes: NDArray[np.int64], slices: int
) -> Classified:
    """A test of ``slices`` of each subject."""
    truth = np.repeat(np.arange(len(sizes)), sizes)
    rates = model.rates[truth]
    if slices > 1:
        shapes = rng.standard_gamma(np.maximum(LIKENESS * rates, 1e-12))
        rates = shapes / shapes.sum(axis=1, keepdims=True)
    chances = np.repeat(np.cumsum(rates, axis=1), slices, axis=0)
    predicted = (rng.random((len(chances), 1)) * chances[:, -1:] > chances).sum(axis=1)
    names = [str(n) for n in np.repeat(np.arange(len(truth)), slices)]
    return Classified(np.repeat(truth, slices), predicted, names)


def of_scores(seed: int, model: Model, subjects: int, slices: int) -> list[tuple[str, bool, float]]:
    """For each score: whether its interval holds the truth, and the width."""
    rng = np.random.default_rng(seed)
    sizes = counts(model, subjects)
    test = drawn(rng, model, sizes, slices)
    classes = len(sizes)
    chances = 0.4 * np.eye(classes)[test.predicted] + 0.6 / classes
    found = intervals.intervals(test.truth, chances, test.subjects, seed)
    truth = scores(sizes[:, np.newaxis] * model.rates)
    return [_held(name, found[name], value) for name, value in truth.items()]


def of_probabilities(
    seed: int, model: Model, subjects: int, slices: int
) -> list[tuple[str, bool, float]]:
    """The same of the scores that need probabilities; ``model`` gives the classes."""
    expected = _expected(model, subjects)
    test = _latent(np.random.default_rng(seed), counts(model, subjects), slices)
    found = intervals.intervals(*test, seed)
    return [_held(name, found[name], value) for name, value in expected.items()]


@cache
def _expected(model: Model, subjects: int) -> dict[str, float]:
    """The scores of a test of as many classes, a hundred thousand subjects in all."""
    sizes = counts(model, subjects)
    truth, chances, _ = _latent(np.random.default_rng(0), 100_000 // sizes.sum() * sizes, 1)
    area = metrics.macro_auc(truth, chances)
    return {**metrics.confidence_scores(truth, chances), "macro_auc": area or 0.0}


def _latent(
    rng: np.random.Generator, sizes: NDArray[np.int64], slices: int
) -> tuple[NDArray[np.int64], Array, list[str]]:
    """Truth, probabilities, subjects: logits around the class, most of the spread a subject's."""
    truth = np.repeat(np.arange(len(sizes)), sizes)
    logits = 1.5 * np.eye(len(sizes))[truth] + rng.normal(0, 0.9, (len(truth), len(sizes)))
    truth, logits = (np.repeat(one, slices, axis=0) for one in (truth, logits))
    logits = logits + rng.normal(0, 0.45, logits.shape)
    names = np.repeat(np.arange(len(truth) // slices), slices)
    return truth, probabilities(1.4 * logits), [str(name) for name in names]


def of_new(seed: int, model: Model, subjects: int, _: int) -> list[tuple[str, bool, float]]:
    """Whether the macro F1 of new subjects falls where it is said to."""
    rng = np.random.default_rng(seed)
    test = drawn(rng, model, counts(model, subjects), 1)
    found = intervals.of_new_subjects(test, len(model.shares), seed, NEW)
    sizes = counts(model, subjects)
    new = drawn(rng, model, rng.multinomial(NEW, sizes / sizes.sum()), 1)
    return [_held("macro_f1", found, metrics.macro_f1(new.truth, new.predicted))]


def of_difference(
    seed: int, model: Model, subjects: int, slices: int
) -> list[tuple[str, bool, float]]:
    """Two equally good models, which answer half of the subjects alike."""
    rng = np.random.default_rng(seed)
    sizes = counts(model, subjects)
    first, other = (drawn(rng, model, sizes, slices) for _ in range(2))
    same = np.repeat(rng.random(sizes.sum()) < 0.5, slices)
    second = first._replace(predicted=np.where(same, first.predicted, other.predicted))
    found = intervals.difference([first], [second], len(sizes), seed)
    return [_held("macro_f1", found.interval, 0.0)]


def _held(name: str, found: list[float] | None, value: float) -> tuple[str, bool, float]:
    low, high = found or (np.nan, np.nan)
    return name, bool(low - 1e-9 <= value <= high + 1e-9), high - low


class Kind(NamedTuple):
    """A table: what is simulated, of which models, with how many subjects and slices of each."""

    title: str
    simulate: Callable[[int, Model, int, int], list[tuple[str, bool, float]]]
    models: tuple[Model, ...]
    subjects: tuple[int, ...]
    slices: int


KINDS = (
    Kind("one slice each", of_scores, (FOUR, REAL, TWO, GOOD, CHANCE), (8, 20, 48, 180), 1),
    Kind("one slice each, hardly any subjects", of_scores, (FOUR, TWO, GOOD), (1, 4), 1),
    Kind(f"{SLICES} slices each", of_scores, (FOUR, CHANCE), (8, 20, 48, 180), SLICES),
    Kind(f"{SLICES} slices each, two classes", of_scores, (TWO, GOOD), (4, 10, 24, 90), SLICES),
    Kind(
        f"probabilities, {SLICES} slices each",
        of_probabilities,
        (FOUR, TWO),
        (8, 20, 48, 180),
        SLICES,
    ),
    Kind(
        "difference of two models, one slice each",
        of_difference,
        (FOUR, REAL, TWO, GOOD),
        (8, 20, 48, 180),
        1,
    ),
    Kind(f"{NEW} new subjects", of_new, (FOUR, REAL, TWO, GOOD), (20, 48, 180), 1),
)


def _cell(task: tuple[int, int, int, int]) -> list[tuple[str, bool, float]]:
    kind, model, subjects, seed = task
    one = KINDS[kind]
    return one.simulate(seed, one.models[model], one.subjects[subjects], one.slices)


def measured(simulations: int) -> Iterator[dict[str, object]]:
    """A row for each model, score and number of subjects, on all cores."""
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        for number, kind in enumerate(KINDS):
            for which, model in enumerate(kind.models):
                for size, subjects in enumerate(kind.subjects):
                    tasks = [(number, which, size, seed) for seed in range(simulations)]
                    found = list(pool.map(_cell, tasks, chunksize=25))
                    for score in zip(*found, strict=True):
                        yield {
                            "test": kind.title,
                            "model": model.name,
                            "score": score[0][0],
                            "subjects": int(counts(model, subjects).sum()),
                            "coverage": float(np.mean([held for _, held, _ in score])),
                            "width": float(np.mean([width for *_, width in score])),
                        }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--simulations", type=int, default=400, help="of each cell (400)")
    parser.add_argument("--json", type=Path, help="write the cells there too")
    asked = parser.parse_args()
    cells = list(measured(asked.simulations))
    if asked.json:
        asked.json.write_text(json.dumps(cells, indent=1) + "\n")
    for kind in KINDS:
        lines: dict[tuple[object, object], list[str]] = {}
        for cell in (cell for cell in cells if cell["test"] == kind.title):
            line = lines.setdefault((cell["model"], cell["score"]), [])
            line.append(f"{cell['coverage']:.3f} ({cell['width']:.2f})")
        header = (f"{kind.title}: subjects, about", "score", *map(str, kind.subjects))
        print(f"\n{table(header, ((*key, *line) for key, line in lines.items()))}")
    least = min(cells, key=lambda cell: float(str(cell["coverage"])))
    print(f"\nleast: {least}")
    raise SystemExit(float(str(least["coverage"])) < LEAST)


if __name__ == "__main__":
    main()
