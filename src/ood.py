"""Stage ood: fit the detector of images unlike the training slices; write models/ood.*."""

import os

from alzmri.training import portable

os.environ.update(portable.environment())  # before torch and NumPy are imported

from alzmri import params, terminal
from alzmri.data.prepared import Prepared
from alzmri.files import write_json
from alzmri.models import saved
from alzmri.ood.detector import fit, headline


def main() -> None:
    settings = params.load()
    prepared = Prepared.open(settings)
    detector, found = fit(saved.MODELS, prepared)
    found["detector"] = detector.save(saved.MODELS)
    write_json(saved.MODELS / "ood.json", found, decimals=6)
    terminal.out.print(headline(found))


if __name__ == "__main__":
    terminal.start(main)
