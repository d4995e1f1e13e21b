"""The four stages in severity order, and how every release in circulation spells them."""

import re

CLASSES = ("Non Demented", "Very Mild Demented", "Mild Demented", "Moderate Demented")
"""Names of the classes, least to most severe. This order is the order everywhere."""

FOLDERS = tuple(name.replace(" ", "") for name in CLASSES)
"""The folder of each class in a collection of ours."""

MERGES = {
    "none": {},
    "three-class": dict.fromkeys(CLASSES[2:], "Mild or Moderate Demented"),
    "binary": dict.fromkeys(CLASSES[1:], "Demented"),
}
"""What ``data.merge`` may be: for each, the new name of the classes that it merges."""

_SPELLINGS = {
    **{re.sub(r"[^a-z]", "", name.lower()): name for name in CLASSES},
    "noimpairment": CLASSES[0],
    "nonimpairment": CLASSES[0],
    "normal": CLASSES[0],
    "verymildimpairment": CLASSES[1],
    "mildimpairment": CLASSES[2],
    "moderateimpairment": CLASSES[3],
    "nondementia": CLASSES[0],
    "nodementia": CLASSES[0],
    "notdemented": CLASSES[0],
    "verymilddementia": CLASSES[1],
    "milddementia": CLASSES[2],
    "moderatedementia": CLASSES[3],
}


def class_of_folder(name: str) -> str | None:
    """The class that a folder name means, whatever its case, spaces, ``_`` or ``-``; else None."""
    return _SPELLINGS.get(re.sub(r"[^a-z]", "", name.lower()))


def merged(merge: str) -> tuple[str, ...]:
    """The class names after ``data.merge``, in severity order."""
    return tuple(dict.fromkeys(MERGES[merge].get(name, name) for name in CLASSES))
