"""A command rewrites its own section of the page and leaves the rest alone."""

from alzmri.experiments.studies.page import write_section


def test_a_section_is_added_once_and_replaced_in_its_place(tmp_path):
    page = tmp_path / "results.md"
    page.write_text("# Results\n\nWritten by hand.\n")
    write_section("honest a", "first", page)
    write_section("honest b", "other", page)
    page.write_text(page.read_text() + "\nMore by hand.\n")
    write_section("honest a", "second \\1 with a backslash", page)
    text = page.read_text()
    assert "first" not in text
    assert text.index("second \\1 with") < text.index("other") < text.index("More by hand")
    assert text.startswith("# Results\n\nWritten by hand.\n")
    write_section("honest a", "second \\1 with a backslash", page)
    assert page.read_text() == text


def test_without_a_page_there_is_one(tmp_path):
    write_section("honest a", "first", tmp_path / "docs/results.md")
    assert "first" in (tmp_path / "docs/results.md").read_text()
