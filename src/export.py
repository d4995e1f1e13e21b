"""Stage export: write the model as models/model.FORMAT; write models/export.FORMAT.json."""

import os

from alzmri.training import portable

os.environ.update(portable.environment())  # before torch and NumPy are imported

import sys

from alzmri import params, terminal
from alzmri.data.prepared import Prepared
from alzmri.errors import UserError
from alzmri.files import write_json
from alzmri.inference import export
from alzmri.models import saved


def main() -> None:
    settings = params.load()
    form = next((item for item in settings.export.formats if [item] == sys.argv[1:]), None)
    if form is None:
        raise UserError("name one of export.formats (params.yaml); outside DVC: `alzmri export`")
    path = saved.MODELS / f"model.{form}"
    metrics = export.export(saved.MODELS, path, form, Prepared.open(settings))
    write_json(saved.MODELS / f"export.{form}.json", metrics)
    terminal.out.print(f"{path}: {export.headline(metrics)}")


if __name__ == "__main__":
    terminal.start(main)
