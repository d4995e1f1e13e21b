"""Stage ood: fit the detector of images unlike the training slices; write models/ood.*."""

import os

from alzmri.training import portable

os.environ.update(portable.environment())  # before torch and NumPy are imported

from alzmri import params, terminal
from alzmri.data.prepared import Prepared
from alzmri.files import write_json
from alzmri.models import saved
from alzmri.ood.detector import fit


def main() -> None:
    settings = params.load()
    prepared = Prepared.open(settings)
    detector, found = fit(saved.MODELS, prepared)
    found["detector"] = detector.save(saved.MODELS)
    write_json(saved.MODELS / "ood.json", found, decimals=6)
    low, high = found["ci95"]["false_alarms"]
    whose = f", of {found['subjects_flagged']} of {found['subjects']} subjects,"
    terminal.out.print(
        f"{found['false_alarms']:.1%} [{low:.1%}, {high:.1%}] of the {found['slices']} test slices"
        f"{whose if found['subjects'] else ''} are flagged as unlike the training slices"
    )


if __name__ == "__main__":
    terminal.start(main)
