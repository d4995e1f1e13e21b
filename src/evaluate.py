"""Stage evaluate: score the model on the test part; write metrics/evaluate.json, plots, the card.

models/evaluation.json has all scores; DVC's tables show those of METRICS.
"""
# ruff: noqa: E402

import gc
import os

from alzmri.training import portable

gc.disable()  # until `terminal.start`: imports leave no garbage, looking for it takes 0.3 s
os.environ.update(portable.environment())  # before torch and NumPy are imported

import json
from pathlib import Path

from alzmri import params, terminal
from alzmri.data.prepared import PREPARED, Prepared
from alzmri.evaluation import assessment, figures, model_card
from alzmri.evaluation.markdown import interval
from alzmri.files import write_json
from alzmri.models import saved
from alzmri.ood.detector import Detector
from alzmri.tracking.tracker import following


def main() -> None:
    settings = params.load()
    prepared = Prepared.open(settings)
    model, trained = saved.load()
    summary = json.loads((PREPARED / "summary.json").read_bytes())
    leak = assessment.check_leak(trained, prepared, settings.split.unit, summary)
    with following(settings, trained.run, prepared.digest) as tracked:
        # Slices out of distribution are left out, as in `alzmri predict`.
        detector = Detector.load(saved.MODELS, saved.digest())
        test = assessment.predict_test(
            model, trained.temperature, prepared, detector, calibrated=settings.evaluate.temperature
        )
        note = assessment.note(test, leak, permuted=settings.data.permute_labels)
        plots = Path("plots")
        pairs = test.truth, test.predicted
        figures.confusion(plots / "confusion.png", *pairs, test.classes, note)
        figures.reliability(plots / "reliability.png", test, note)
        figures.roc(plots / "roc.png", test, note)
        figures.mistakes(plots / "mistakes.png", test, note)
        figures.history(plots / "history.png", plots / "history.csv")
        assessment.write_tables(plots, test)
        details = assessment.details(test, leak, settings.split.seed)
        write_json(saved.MODELS / "evaluation.json", details, decimals=6)
        scores = {name: details[name] for name in assessment.METRICS}
        write_json(Path("metrics/evaluate.json"), scores, decimals=6)
        alarms = json.loads((saved.MODELS / "ood.json").read_bytes())
        model_card.write(saved.MODELS / "MODEL_CARD.md", trained, prepared, details, alarms)
        tracked.evaluation(prepared.classes, after=trained.parameters["train"]["epochs"])
    macro_f1 = interval(details["macro_f1"], details["ci95"]["macro_f1"])
    rest = "accuracy {accuracy:.3f}, loss {loss:.3f}".format(**details)
    terminal.out.print(f"macro F1 {macro_f1}, {rest} ({note})")


if __name__ == "__main__":
    terminal.start(main)
