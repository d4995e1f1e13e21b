"""What words mean as classes, and what is refused."""

import pytest

from alzmri.classes import CLASSES, DEMENTED, STAGES, merged, named, of_folders, option, parse
from alzmri.errors import UserError


@pytest.mark.parametrize(
    ("words", "label"),
    [
        (("Non", "non_demented", "CN", "NC", "hc", "Control", "Cognitively Normal"), CLASSES[0]),
        (("CDR 0", "CDR_0", "Normal", "NonDemented (3200)", "0_NonDemented"), CLASSES[0]),
        (("VeryMild", "very mild", "CDR 0.5", "CDR-0.5"), CLASSES[1]),
        (("mild", "CDR1", "Mild Dementia"), CLASSES[2]),
        (("Moderate", "CDR 2.0"), CLASSES[3]),
        (("Demented", "dementia"), DEMENTED),
        (("MCI", "AD", "CDR 3", "severe", "0", "1", "-1", "", "None", "nan", "AD vs CN"), None),
    ],
)
def test_words_of_the_stages(words: tuple[str, ...], label: str | None) -> None:
    assert {word: STAGES.class_of(word) for word in words} == dict.fromkeys(words, label)


def test_a_grade_of_another_diagnosis_is_no_stage() -> None:
    assert of_folders(STAGES, ("AD", "train", "Mild Demented", "x")) == (
        "Mild Demented",
        CLASSES[2],
    )
    assert of_folders(STAGES, ("MCI", "mild")) == ("MCI", None)
    assert of_folders(STAGES, ("train", "images")) is None


def test_a_number_means_a_class_only_where_no_other_folder_does() -> None:
    """Subjects are numbered as well."""
    naming = parse("CN,MCI,AD")
    assert of_folders(naming, ("2023", "2", "x")) == ("2", "AD")
    assert of_folders(naming, ("AD", "1")) == ("AD", "AD")
    assert of_folders(naming, ("2", "1")) is None
    assert of_folders(STAGES, ("2",)) is None


def test_numbers_mean_the_names_in_their_order_unless_labels_are_given() -> None:
    given = parse("Mild,Moderate,Non,Very Mild")
    assert given.classes == CLASSES
    assert [given.class_of(str(number)) for number in range(5)] == [
        *(CLASSES[2], CLASSES[3], CLASSES[0], CLASSES[1]),
        None,
    ]
    own = parse("1=CN, 2=MCI, 0=AD")
    assert own.classes == ("CN", "MCI", "AD")
    assert [own.class_of(word) for word in ("0", "1.0", "02", "3", "-1", "mci")] == [
        *("AD", "CN", "MCI"),
        *(None, None, "MCI"),
    ]
    assert parse("control=CN,AD").class_of("Control") == "CN"
    assert parse("control=CN,AD").class_of("0") is None
    assert parse("CN,AD").class_of("Mild Demented") is None


@pytest.mark.parametrize(
    "text",
    [
        *("", "CN", "CN,", "CN,CN", "CN,cn", "a/b,CN", "..,CN", "0,1", "path,CN", "x|y,CN"),
        *("1=CN,1=AD", ",".join(f"c{number}" for number in range(11)), "é" * 41 + ",CN"),
    ],
)
def test_names_that_cannot_be_used(text: str) -> None:
    with pytest.raises(UserError, match="--classes"):
        parse(text)


def test_two_to_ten_names() -> None:
    names = [f"CDR {number / 2}" for number in range(10)]
    assert named(names, "classes.txt").classes == tuple(names)
    assert parse("NonDemented,Demented").classes == (CLASSES[0], DEMENTED)


def test_the_option_that_a_refusal_names() -> None:
    assert option({"AD", "CN", "MCI"}) == "--classes 'CN,MCI,AD'"
    assert option({"1", "2", "10"}) == "--classes '1=NAME,2=NAME,10=NAME'"
    final = ("Final AD JPEG", "Final CN JPEG", "Final MCI JPEG")
    assert option(final) == "--classes 'Final CN JPEG,Final MCI JPEG,Final AD JPEG'"
    assert option(("x", "CN")) == "--classes 'CN,x'"


def test_merges_join_stages_or_say_that_they_do_not() -> None:
    assert list(merged("none", ("CN", "AD")).values()) == ["CN", "AD"]
    assert merged("binary", CLASSES[:3])["Mild Demented"] == DEMENTED
    for merge, classes in (
        ("binary", ("CN", "MCI", "AD")),
        ("binary", CLASSES[1:]),
        ("binary", (CLASSES[0], DEMENTED)),
        ("three-class", CLASSES[:3]),
    ):
        with pytest.raises(UserError, match=r"set data\.merge to none"):
            merged(merge, classes)
