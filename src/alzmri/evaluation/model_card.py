"""Write ``MODEL_CARD.md``, for users of the weights.

It follows Mitchell et al., "Model cards for model reporting" (2019). The text is in
``model_card.md``, a Jinja template. The card has no date: the same run writes the same card.
"""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, select_autoescape

from alzmri.data.prepared import PARTS, Prepared
from alzmri.evaluation.leak import leaks
from alzmri.evaluation.markdown import interval
from alzmri.files import write_bytes
from alzmri.models.saved import Card
from alzmri.ood.detector import share_interval

FEW_SUBJECTS = 10  # with fewer of a class in the test, the card says that its scores say little


def write(
    path: Path, trained: Card, prepared: Prepared, metrics: dict[str, Any], alarms: dict[str, Any]
) -> None:
    """Write the card of a model.

    ``metrics`` is its ``models/evaluation.json``, ``alarms`` its ``models/ood.json``.
    """
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(),  # of HTML, not of Markdown
        finalize=lambda value: "–" if value is None else value,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters["digits"] = "{:.3f}".format
    known, leak = prepared.subjects_known, metrics["split"]
    counts = {}
    for name in prepared.classes:
        rows = [row for row in prepared.rows if row.label == name]
        slices = [[row.subject for row in rows if row.split == part] for part in PARTS]
        counts[name] = [f"{len(of)} of {len(set(of)) if known else '?'}" for of in slices]
    text = templates.get_template("model_card.md").render(
        card=trained,
        data=trained.parameters["data"],
        split=trained.parameters["split"],
        start=trained.training.get("init"),
        scores=metrics,
        subject=metrics["subject"],
        leak=leak,
        leaks=leaks(leak),
        alarms=alarms,
        known=known,
        counts=counts,
        few=FEW_SUBJECTS,
        interval=interval,
        bounds=share_interval,
    )
    write_bytes(path, text.encode())
