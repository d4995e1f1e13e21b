"""Stage export: write models/model.onnx and models/export.onnx.json."""

import os

from alzmri.training import portable

os.environ.update(portable.environment())  # before torch and NumPy are imported

from alzmri import params, terminal
from alzmri.data.prepared import Prepared
from alzmri.errors import UserError
from alzmri.files import write_json
from alzmri.inference import onnx_export
from alzmri.models import saved


def main() -> None:
    settings = params.load()
    if not settings.export.formats:
        raise UserError("export.formats (params.yaml) is off; outside DVC: `alzmri export`")
    path = saved.MODELS / "model.onnx"
    metrics, summary = onnx_export.export(saved.MODELS, path, Prepared.open(settings))
    write_json(saved.MODELS / "export.onnx.json", metrics)
    terminal.out.print(summary, markup=False)


if __name__ == "__main__":
    terminal.start(main)
