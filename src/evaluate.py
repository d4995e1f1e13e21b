"""Stage evaluate: score the model on the test part; write metrics/evaluate.json, plots, the card.

models/evaluation.json has all scores; DVC's tables show those of METRICS.
"""

import os

from alzmri.training import portable

os.environ.update(portable.environment())  # before torch and NumPy are imported

import json
from pathlib import Path

from alzmri import params, terminal
from alzmri.data.prepared import Prepared
from alzmri.evaluation import card, report
from alzmri.evaluation.leak import check_leak, near_duplicates
from alzmri.files import write_json
from alzmri.models import saved
from alzmri.ood.detector import Detector
from alzmri.tracking.tracker import following


def main() -> None:
    settings = params.load()
    prepared = Prepared.open(settings)
    model, trained = saved.load()
    shared = check_leak(trained, prepared, settings.split.unit)
    across = near_duplicates()
    with following(settings, trained.run, prepared.digest) as tracked:
        # What is flagged counts as little here as in `alzmri predict`.
        detector = Detector.load(saved.MODELS, saved.digest())
        test = report.predict_test(
            model, trained.temperature, prepared, settings.evaluate, detector
        )
        note = report.note(test, settings, shared, across)
        report.draw(Path("plots"), test, note)
        report.write_tables(Path("plots"), test)
        details = report.details(test, settings.split, shared, across)
        write_json(saved.MODELS / "evaluation.json", details, decimals=6)
        scores = {name: details[name] for name in report.METRICS}
        write_json(Path("metrics/evaluate.json"), scores, decimals=6)
        alarms = json.loads((saved.MODELS / "ood.json").read_bytes())
        card.write(saved.MODELS / "MODEL_CARD.md", trained, prepared, details, alarms)
        tracked.evaluation(prepared.classes, after=trained.parameters["train"]["epochs"])
    terminal.out.print(f"{report.headline(details)} ({note})")


if __name__ == "__main__":
    terminal.start(main)
