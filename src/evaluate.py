"""Stage evaluate: score models on the test part; write metrics/evaluate.json and plots."""

from pathlib import Path

from alzmri import params, terminal
from alzmri.data.prepared import Prepared
from alzmri.evaluation import report
from alzmri.evaluation.leak import check_leak
from alzmri.files import write_json
from alzmri.models import saved


def main() -> None:
    settings = params.load()
    prepared = Prepared.open(settings)
    model, card = saved.load()
    shared = check_leak(card, prepared, settings.split.unit)
    test = report.predict_test(model, prepared)
    note = report.note(test, settings.split.unit, shared)
    report.draw(Path("plots"), test, note)
    report.write_tables(Path("plots"), test)
    metrics = report.metrics(test, settings.split, shared)
    write_json(Path("metrics/evaluate.json"), metrics)
    terminal.out.print(f"{report.headline(metrics)} ({note})")


if __name__ == "__main__":
    terminal.start(main)
