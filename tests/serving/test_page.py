"""The page in a real browser: what a user sees, with keyboard, phone and dark screen."""

import itertools

import cv2
import numpy as np
import pytest

from alzmri.classes import CLASSES

STATUS = "document.getElementById('status').textContent"
COLOURS = """(() => {
  const luminance = (colour) => {
    const parts = colour.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255);
    const [r, g, b] = parts.map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const opaque = (colour) => !/, 0\\)$/.test(colour) && colour !== "transparent";
  const background = (node) => {
    while (node && !opaque(getComputedStyle(node).backgroundColor)) node = node.parentElement;
    return getComputedStyle(node ?? document.documentElement).backgroundColor;
  };
  return [...document.querySelectorAll("h1, h2, p, a, th, td, button, .button, summary, label")]
    .filter((node) => node.checkVisibility() && node.innerText.trim())
    .map((node) => {
      const [low, high] = [getComputedStyle(node).color, background(node)]
        .map(luminance).sort((a, b) => a - b);
      return { text: node.innerText.slice(0, 40), contrast: (high + 0.05) / (low + 0.05) };
    });
})()"""
"""The contrast of every visible text, as WCAG 2.2 defines it; AA wants 4.5."""

STAGES = """[0, 1, 2, 3].map((stage) => {
  const node = document.createElement("span");
  node.style.background = `var(--stage-${stage})`;
  document.body.append(node);
  const colour = getComputedStyle(node).backgroundColor.match(/\\d+/g).map(Number);
  node.remove();
  return colour;
})"""
"""The colours of the classes, red, green and blue."""

FOCUS = """(() => {
  const node = document.activeElement;
  const shown = node.id === "files" ? document.querySelector(".button") : node;
  return [node.id || node.type, getComputedStyle(shown).outlineStyle];
})()"""
"""What has the focus, and how that is drawn; a button stands for the input of files."""


@pytest.fixture
def page(browser, server, eventually):
    """The page, freshly loaded, wide and light."""
    browser.look(1280, "light")
    browser.events.clear()
    browser.call("Page.navigate", url=f"{server.url}/")
    eventually(lambda: browser.evaluate("document.getElementById('model')?.textContent"))
    return browser


def _lab(colours):
    """In CIELAB, where a distance of 2 can just be seen."""
    pixels = np.array([colours], np.float32) / 255
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB)[0]


def _choose(page, *paths):
    found = page.call("Runtime.evaluate", expression="document.getElementById('files')")
    files = [str(path) for path in paths]
    page.call("DOM.setFileInputFiles", files=files, objectId=found["result"]["objectId"])


def _rows(page):
    """The heading of each result, and the texts of its table, row by row."""
    return page.evaluate("""[...document.querySelectorAll("#results > li")].map((item) => [
        item.querySelector("h2").textContent,
        [...item.querySelectorAll("tbody tr")].map((row) =>
            [...row.children].map((cell) => cell.textContent)),
    ])""")


def _unexpected(page):
    """Errors of scripts, of the policy, of loading; requests to any other host."""
    for event in page.events:
        match event["method"], event["params"]:
            case "Runtime.exceptionThrown", details:
                yield details
            case "Log.entryAdded", {"entry": {"level": "error"} as entry}:
                yield entry
            case "Network.requestWillBeSent", {"request": {"url": url}}:
                if not url.startswith(("http://127.0.0.1:", "data:", "blob:")):
                    yield url


def test_chosen_slices_get_the_servers_probabilities(page, server, files, eventually):
    _choose(page, *files)
    eventually(lambda: page.evaluate(STATUS) == "4 of 4 done")
    found = dict(_rows(page))
    for path in files:
        answer = server.post("/explain", files={"image": path.read_bytes()}).json()
        rows = found[path.name]
        assert [row[0] for row in rows] == list(CLASSES)
        shown = [row[2] for row in rows]
        assert shown == [f"{value:.2f}" for value in answer["probabilities"].values()]
        known = answer["calibration"].values()
        assert [row[3] for row in rows] == [
            f"{one['share']:.2f} [{one['low']:.2f}, {one['high']:.2f}]" for one in known
        ]
    mean = server.post("/predict", files=[("images", path.read_bytes()) for path in files]).json()
    shown = page.evaluate(
        "[...document.querySelectorAll('#mean td:nth-child(3)')].map((cell) => cell.textContent)"
    )
    assert shown == [f"{value:.2f}" for value in mean["mean"].values()]
    pictures = page.evaluate(
        "[...document.querySelectorAll('#results img')].map((image) => image.naturalWidth)"
    )
    assert pictures == [32, 256] * 4
    assert list(_unexpected(page)) == []


def test_dropped_files_are_predicted_and_bad_ones_say_why(page, files, tmp_path, eventually):
    rng = np.random.default_rng(0)
    strange = tmp_path / "strange.pgm"
    strange.write_bytes(b"P5 64 64 255\n" + rng.choice([0, 255], 4096).astype(np.uint8).tobytes())
    broken = tmp_path / "<b>broken.png"
    broken.write_bytes(files[0].read_bytes()[:200])
    data = {
        "items": [],
        "files": [str(path) for path in (files[1], strange, broken)],
        "dragOperationsMask": 1,
    }
    for kind in ("dragEnter", "dragOver", "drop"):
        page.call("Input.dispatchDragEvent", type=kind, x=300, y=600, data=data)
    eventually(lambda: page.evaluate(STATUS).startswith("3 of 3 done, 1 refused"))
    text = dict(
        page.evaluate(
            "[...document.querySelectorAll('#results > li')].map("
            "(item) => [item.querySelector('h2').textContent, item.innerText])"
        )
    )
    assert "Out of distribution" in text["strange.pgm"]
    assert "Out of distribution" not in text[files[1].name]
    assert "damaged" in text["<b>broken.png"]
    page.evaluate("document.getElementById('clear').click()")
    assert _rows(page) == []


def test_a_volume_becomes_its_slices(page, head, eventually):
    _choose(page, head)
    eventually(lambda: page.evaluate(STATUS).startswith("6 of 6 done"))
    names = [name for name, _ in _rows(page)]
    depths = [int(name.removeprefix("Jane Doe.nii.gz, ").split()[0]) for name in names]
    assert len(depths) == 6
    assert depths == sorted(depths, reverse=True)
    assert list(_unexpected(page)) == []


def test_the_keyboard_reaches_everything_and_changes_reach_a_screen_reader(page, files, eventually):
    _choose(page, files[0])
    eventually(lambda: page.evaluate(STATUS).startswith("1 of 1 done: Non Demented"))
    assert page.evaluate("document.getElementById('status').role") == "status"
    page.evaluate("document.body.focus(), scrollTo(0, 0), getSelection().removeAllRanges()")
    seen = []
    for _ in range(6):
        page.press("Tab", 9)
        name, ring = page.evaluate(FOCUS)
        assert ring == "solid", (seen, name)
        seen.append(name)
    assert {"files", "clear", "range"} <= set(seen)
    page.evaluate("document.querySelector('#card summary').focus()")
    page.press("Enter", 13, "\r")
    assert page.evaluate("document.getElementById('card').open")
    card = page.evaluate("document.getElementById('card-text').innerHTML")
    assert "<h1>Model card: discs</h1>" in card
    assert "<table>" in card
    assert "<script" not in card  # nor any other HTML of the card's own


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_can_be_read_wide_and_on_a_phone_light_and_dark(page, files, eventually, width, scheme):
    page.look(width, scheme)
    _choose(page, *files[:2])
    eventually(lambda: page.evaluate(STATUS) == "2 of 2 done")
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(overflow) == 0
    found = page.evaluate(COLOURS)
    assert len(found) > 30
    assert [node for node in found if node["contrast"] < 4.5] == []
    colours = page.evaluate(STAGES)
    distances = [np.linalg.norm(a - b) for a, b in itertools.combinations(_lab(colours), 2)]
    assert min(distances) > 20, colours
    dark = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (dark == "rgb(18, 22, 26)") == (scheme == "dark")


def test_the_description_of_the_api_works_without_the_internet(browser, server, eventually):
    browser.events.clear()
    browser.call("Page.navigate", url=f"{server.url}/docs")
    eventually(lambda: "/invocations" in browser.evaluate("document.body?.innerText ?? ''"))
    assert list(_unexpected(browser)) == []
