"""Stage scope: learn what a model can judge; write models/scope.safetensors, metrics/scope.json."""

import os

from alzmri.training import portable

os.environ.update(portable.environment())  # before torch and NumPy are imported

from pathlib import Path

from alzmri import params, terminal
from alzmri.data.prepared import Prepared
from alzmri.files import write_json
from alzmri.inference import scope_fit
from alzmri.models import saved


def main() -> None:
    settings = params.load()
    prepared = Prepared.open(settings)
    scope, metrics = scope_fit.fit(saved.MODELS, prepared, settings.split.seed)
    scope.save(saved.MODELS)
    write_json(Path("metrics/scope.json"), metrics)
    terminal.out.print(scope_fit.headline(metrics))


if __name__ == "__main__":
    terminal.start(main)
