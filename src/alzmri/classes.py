"""The classes of a collection, least to most severe: the stages of dementia, or its own."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from alzmri.errors import UserError

CLASSES = ("Non Demented", "Very Mild Demented", "Mild Demented", "Moderate Demented")
"""Names of the four stages, least to most severe: the order everywhere."""
DEMENTED = "Demented"
"""The second class of two-class collections and of ``data.merge: binary``."""
KNOWN = (*CLASSES, DEMENTED)
"""Classes that need no ``--classes``, in the order of severity."""
CLASSES_FILE = "classes.txt"
"""The file in a collection's folder with its classes, one a line, least to most severe."""
MOST = 10
"""Maximum number of classes. Some plots sort them by their number, which must be one digit."""
MERGES = {
    "none": {},
    "three-class": dict.fromkeys(CLASSES[2:], "Mild or Moderate Demented"),
    "binary": dict.fromkeys(CLASSES[1:], DEMENTED),
}
"""Values of ``data.merge``; each maps the classes that it merges to their new name."""

_WORDS = {
    CLASSES[0]: "non,no impairment,non impairment,non dementia,no dementia,not demented,normal,"
    "healthy,control,controls,normal control,healthy control,cognitively normal,cn,nc,hc,"
    "CDR 0,CDR 0.0",
    CLASSES[1]: "very mild,very mild impairment,very mild dementia,CDR 0.5",
    CLASSES[2]: "mild,mild impairment,mild dementia,CDR 1,CDR 1.0",
    CLASSES[3]: "moderate,moderate impairment,moderate dementia,CDR 2,CDR 2.0",
    DEMENTED: "dementia",
}
"""Other spellings of the classes in public collections."""

_SHORT = ("verymild", "mild", "moderate")
"""Words that, below the folder of another diagnosis, are grades of that diagnosis."""

_NAME = re.compile(r"(?=.*[^\W\d])[^\W_][\w .+()'-]{0,39}")
_COLUMNS = ("path", "subject", "actual", "predicted")
"""Columns of ``plots/predictions.csv``, in which each class is a column too."""


def number(word: str) -> bool:
    """Whether ``word`` is a number, whose meaning is unknown."""
    return re.fullmatch(r"\s*[+-]?\d+(\.\d+)?\s*", word) is not None


def plain(word: str) -> str:
    """``word`` without case, spaces and signs, in which spellings differ; numbers by value.

    >>> plain("Very-Mild"), plain("very mild"), plain("0.50")
    ('verymild', 'verymild', '0.5')
    """
    if number(word):
        return f"{float(word):g}"
    return "".join(sign for sign in word.casefold() if sign.isalnum())


def folder(name: str) -> str:
    """The folder of a class in an imported collection."""
    return name.replace(" ", "")


FOLDERS = tuple(map(folder, CLASSES))


class Naming(NamedTuple):
    """The classes that a source's folder names, labels and numbers mean."""

    classes: tuple[str, ...]  # least to most severe; empty if nobody named them
    words: Mapping[str, str]  # the class of each plain word
    open: bool  # whether the words are those of the stages, which may appear without digits

    def class_of(self, word: str) -> str | None:
        """The class that ``word`` means, or None; case, spaces and signs do not matter."""
        found = self.words.get(plain(word))
        if found or not self.open:
            return found
        return self.words.get(re.sub(r"[^a-z]", "", word.lower()))

    @property
    def known(self) -> str:
        """The classes, for a message."""
        return ", ".join(self.classes or FOLDERS)


_SPELLINGS = {plain(word): name for name in KNOWN for word in (name, *_WORDS[name].split(","))}
STAGES = Naming((), _SPELLINGS, open=True)
"""The naming if nobody names the classes."""
_NO_STAGE = (
    "SCD,SMC,EMCI,MCI,LMCI,AD,Alzheimer,Alzheimers,Alzheimers disease,"
    "CDR 3,severe,severe impairment,severe dementia,severe demented"
)
_STAGELESS = tuple(map(plain, _NO_STAGE.split(",")))
"""Diagnoses other than the stages, least to most severe; only the user can place them."""
_ORDER = (*KNOWN, *_STAGELESS)


def of_folders(naming: Naming, folders: Sequence[str]) -> tuple[str, str | None] | None:
    """The innermost of ``folders`` (outermost first) that means a class, and this class.

    The class is None for a diagnosis that is not one of the classes; the result is None if no
    folder means anything. A number means a class only if no other folder and no other number
    does, because subjects are numbered too.
    """
    for at in reversed(range(len(folders))):
        word, above = folders[at], folders[at - 1] if at else ""
        label = None if number(word) else naming.class_of(word)
        if label and naming.open and plain(word) in _SHORT and stageless(above):
            label, word = None, above
        if label or stageless(word):
            return word, label
    numbers = [word for word in folders if number(word) and naming.class_of(word)]
    return (numbers[0], naming.class_of(numbers[0])) if len(numbers) == 1 else None


def stageless(word: str) -> bool:
    """Whether ``word`` is a diagnosis other than the stages, such as MCI."""
    return plain(word) in _STAGELESS


def parse(text: str) -> Naming:
    """The naming of ``--classes``: ``NAME,NAME,…``, least to most severe.

    ``LABEL=NAME`` names a class that the source calls LABEL. Without labels, the numbers 0, 1, …
    mean the names in order.

    Raises:
        UserError: a name is not valid.
    """
    given = [item.rpartition("=")[::2] for item in text.split(",")]
    labels, names = ([one.strip() for one in column] for column in zip(*given, strict=True))
    naming = named(names, "--classes")
    if not any(labels):
        labels = list(map(str, range(len(names))))
    extra: dict[str, str] = {}
    for label, name in zip(labels, names, strict=True):
        meant = naming.class_of(name) or name
        if label and extra.setdefault(plain(label), meant) != meant:
            raise UserError(f"--classes: {label} means two classes")
    return naming._replace(words={**naming.words, **extra})


def named(names: Sequence[str], where: str) -> Naming:
    """The naming with the classes ``names``; messages call their source ``where``.

    If all are known, they get the names and the order of the stages.

    Raises:
        UserError: fewer than 2 or more than :data:`MOST`, or a name is not valid.
    """
    for name in names:
        if not _NAME.fullmatch(name) or name.lower() in _COLUMNS:
            raise UserError(
                f"{where}: {name!r} is not a valid class name: use up to 40 letters, digits, spaces"
                f" and .+-()', at least one letter, and not {', '.join(_COLUMNS)}"
            )
    naming = Naming(tuple(names), {plain(name): name for name in names}, open=False)
    known = {STAGES.class_of(name) for name in names}
    if None not in known and len(known) == len(names):
        naming = STAGES._replace(classes=tuple(name for name in KNOWN if name in known))
    if not 2 <= len(set(map(plain, naming.classes))) == len(naming.classes) <= MOST:
        raise UserError(
            f"{where} must name 2 to {MOST} different classes, from healthy to severe, such as"
            f" CN,MCI,AD; it names {', '.join(names) or 'none'}"
        )
    return naming


def option(words: Iterable[str]) -> str:
    """A ``--classes`` option for a source with ``words``, from healthy to severe as far as the
    order is known; the user names the numbers."""
    words = sorted(set(words), key=lambda word: (_severity(word), word))
    if all(map(number, words)):
        words = [f"{word}=NAME" for word in sorted(words, key=float)]
    return f"--classes '{','.join(words)}'"


def _severity(word: str) -> int:
    """The place of ``word``, or of the first word in it that has one; others are last."""
    parts = (word, *re.findall(r"[^\W_]+", word))
    meant = [STAGES.class_of(part) or plain(part) for part in parts]
    return next((_ORDER.index(name) for name in meant if name in _ORDER), len(_ORDER))


def merged(merge: str, classes: Collection[str]) -> dict[str, str]:
    """Each of ``classes`` and its name after ``data.merge``, in severity order.

    Raises:
        UserError: ``merge`` joins none of them.
    """
    names = MERGES[merge]
    after = {name: names.get(name, name) for name in classes}
    if merge != "none" and not 1 < len(set(after.values())) < len(after):
        raise UserError(
            f"data.merge = {merge} joins {' and '.join(names)}, and this collection has the classes"
            f" {', '.join(classes)}: set data.merge to none"
        )
    return after
