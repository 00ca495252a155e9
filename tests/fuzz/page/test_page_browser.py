"""The page in a real browser: it renders without a complaint, fits a narrow screen, can be copied from and walked by keys."""

from __future__ import annotations

import itertools
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import headless_chromium
import pytest
from made_summaries import HOSTILE, everything

from fuzz.report.write import report_of
from tests.tiers import one_of_each

pytestmark = pytest.mark.skipif(bool(headless_chromium.missing()), reason=headless_chromium.missing())

SCRIPT = f"# {HOSTILE[:-2]}\nimport torch\n\tprint('tab')\n"
"""Without the control characters, which no page can hold."""

TOO_WIDE = """
return [...document.querySelectorAll("body *")]
  .filter((each) => each.getBoundingClientRect().right > 361 && !each.parentElement.closest(".scroll, pre"))
  .map((each) => `${each.tagName}.${each.className}: ${each.textContent.slice(0, 60)}`);
"""

FAINT = """
function parts(colour) { return colour.match(/[\\d.]+/g).map(Number); }
function luminance([r, g, b]) {
  const [x, y, z] = [r, g, b].map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
}
function ground(each) {
  for (let at = each; at; at = at.parentElement) {
    const colour = parts(getComputedStyle(at).backgroundColor);
    if (colour.length < 4 || colour[3] === 1) return colour;
    if (colour[3] > 0) throw new Error(`half transparent: ${at.className}`);
  }
  throw new Error("no ground");
}
const faint = [];
for (const each of document.querySelectorAll("body *")) {
  const shown = [...each.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  if (!shown || each.closest(".sr, .skip, svg, script") || !each.getClientRects().length) continue;
  const [a, b] = [luminance(parts(getComputedStyle(each).color)), luminance(ground(each))];
  const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (contrast < 4.5) faint.push(`${each.tagName}.${each.className} ${contrast.toFixed(2)}: ${each.textContent.slice(0, 40)}`);
}
return faint;
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("page")
    folder = root / "findings" / "bug-one"
    folder.mkdir(parents=True)
    (folder / "repro.py").write_text(SCRIPT, encoding="utf-8")
    return report_of(everything(), root, root).page.as_uri()


@pytest.fixture(scope="module")
def started() -> Iterator[headless_chromium.Browser]:
    with headless_chromium.Browser() as browser:
        yield browser


@pytest.fixture
def browser(started: headless_chromium.Browser, url: str) -> headless_chromium.Browser:
    started.screen(1200)
    started.open(url)
    return started


@pytest.mark.parametrize(("width", "scheme"), one_of_each(itertools.product((360, 1200), ("light", "dark"))))
def test_it_renders_without_a_complaint(browser: headless_chromium.Browser, url: str, width: int, scheme: str) -> None:
    browser.screen(width, scheme=scheme)
    browser.open(url)
    assert browser.console() == []
    assert browser.run("return document.readyState") == "complete"
    assert browser.run("return document.querySelector('h1').textContent").endswith(
        "1 memory fault and 1 lost process found on TP2"
    )
    assert (
        browser.run("return performance.getEntriesByType('resource').filter((each) => !each.name.startsWith('data:')).length")
        == 0
    )


@pytest.mark.slow(guard="test_it_renders_without_a_complaint")
def test_a_complaint_would_be_seen(browser: headless_chromium.Browser) -> None:
    """The test above can fail: what the page's policy forbids is a message of the console."""
    browser.run("document.body.append(Object.assign(document.createElement('img'), {src: 'http://127.0.0.1:9/x.png'}))")
    assert any("Content Security Policy" in message for message in browser.console())


@pytest.mark.slow(guard="test_it_renders_without_a_complaint")
def test_a_narrow_screen_needs_no_sideways_scrolling(browser: headless_chromium.Browser) -> None:
    browser.screen(360)
    browser.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert browser.run(TOO_WIDE) == []
    assert browser.run("return document.documentElement.scrollWidth") == 360


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.slow(guard="test_it_renders_without_a_complaint")
def test_every_text_stands_out_from_its_ground(browser: headless_chromium.Browser, scheme: str) -> None:
    """WCAG AA: 4.5 to 1."""
    browser.screen(1200, scheme=scheme)
    browser.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert browser.run(FAINT) == []
    dark = sum(browser.run("return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")) < 128
    assert dark == (scheme == "dark")


def clipboard(browser: headless_chromium.Browser, keep: str = "navigator.clipboard") -> Any:
    return browser.run(f"return {keep}.readText()")


def allow_clipboard(browser: headless_chromium.Browser) -> None:
    """For a page that the browser takes for the one in front, as it wants it to be."""
    browser.command("Browser.grantPermissions", {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]})
    browser.command("Emulation.setFocusEmulationEnabled", {"enabled": True})


@pytest.mark.slow(guard="test_it_renders_without_a_complaint")
def test_the_script_copies(browser: headless_chromium.Browser) -> None:
    allow_clipboard(browser)
    browser.run("return navigator.clipboard.writeText('something else')")
    browser.click("button[data-copy=finding-1-script]")
    assert clipboard(browser) == SCRIPT
    status = "return document.querySelector('button[data-copy=finding-1-script]').parentElement.querySelector('[role=status]')"
    assert browser.run(f"{status}.textContent") == "Copied"


@pytest.mark.slow(guard="test_it_renders_without_a_complaint")
def test_the_script_copies_where_pages_have_no_clipboard(browser: headless_chromium.Browser) -> None:
    """As from an artifact server over plain HTTP."""
    allow_clipboard(browser)
    browser.run("return navigator.clipboard.writeText('something else')")
    browser.run("window.kept = navigator.clipboard; Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    browser.click("button[data-copy=finding-1-script]")
    assert clipboard(browser, "window.kept") == SCRIPT
    assert browser.run("return document.activeElement.dataset.copy") == "finding-1-script"


@pytest.mark.slow(guard="test_it_renders_without_a_complaint")
def test_the_map_tells_of_a_field_by_pointer_and_by_keys(browser: headless_chromium.Browser) -> None:
    browser.click("table.heat tbody td.faulty")
    readout = "return document.getElementById('map-64-readout').textContent"
    assert browser.run(readout).startswith("batch 1, KV 16..31: 300 cases, 300 reached a kernel, 83 faulty")
    browser.press("\ue014")  # arrow right
    assert browser.run(readout) == "batch 1, KV 32..63: not drawn"
    browser.press("\ue015")  # arrow down
    assert browser.run(readout) == "batch 2..3, KV 32..63: not drawn"
    assert browser.run("return document.querySelectorAll('table.heat')[0].querySelectorAll('td[tabindex=\"0\"]').length") == 1
    for _ in range(3):
        browser.press("\ue013")  # arrow up, at last against the edge
    assert browser.run(readout) == "batch 1, KV 32..63: not drawn"


def test_hostile_text_does_nothing(browser: headless_chromium.Browser) -> None:
    assert browser.run("return [document.scripts.length, document.images.length]") == [1, 0]


@pytest.mark.slow(guard="test_it_renders_without_a_complaint")
def test_it_prints(browser: headless_chromium.Browser) -> None:
    """On paper there is nothing to press, and what is folded up on the screen stays out."""
    browser.command("Emulation.setEmulatedMedia", {"media": "print"})
    hidden = "return [...document.querySelectorAll('.copy, .toc')].every((each) => getComputedStyle(each).display === 'none')"
    assert browser.run(hidden)
    browser.command("Emulation.setEmulatedMedia", {"media": ""})


@pytest.mark.slow(guard="test_it_renders_without_a_complaint")
def test_without_scripts_everything_can_be_read(browser: headless_chromium.Browser, url: str) -> None:
    """In a frame that may run none. Switched off for a whole window they may run once more, in the page that it loads next."""
    browser.open("about:blank")
    browser.run(
        """
        const frame = document.createElement("iframe");
        frame.sandbox = "allow-same-origin";
        frame.srcdoc = arguments[0];
        window.inner = () => frame.contentDocument;
        return new Promise((loaded) => { frame.onload = () => loaded(true); document.body.append(frame); });
        """,
        Path(urllib.parse.unquote(urllib.parse.urlsplit(url).path)).read_text(encoding="utf-8"),
    )
    hidden = browser.run("return [...inner().querySelectorAll('.copy')].map((each) => each.hidden)")
    assert set(hidden) == {True}
    assert SCRIPT.strip() in browser.run("return inner().getElementById('finding-1-script').textContent")
