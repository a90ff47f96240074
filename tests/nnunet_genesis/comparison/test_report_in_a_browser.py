"""The report in a real browser: it fits, figures are drawn, tables and slices obey the keyboard."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from nnunet_genesis.comparison.report import write_report
from tests.nnunet_genesis.comparison.test_report import NAME, add_images, results  # noqa: F401

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WITHOUT = "needs Playwright and a Chromium: pip install playwright, apt-get install chromium"
sync_playwright = pytest.importorskip("playwright.sync_api", reason=WITHOUT).sync_playwright
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=WITHOUT)


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """One for all tests."""
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_it_fits_and_works(results, tmp_path: Path, browser, width: int, scheme: str):  # noqa: F811
    add_images(results)
    file = write_report([NAME], tmp_path / "report")
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "request", lambda request: problems.extend([request.url] * (not request.url.startswith(("file:", "data:"))))
    )
    page.goto(file.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert all(page.evaluate("[...document.images].map((image) => image.complete && image.naturalWidth > 0)"))
    assert page.locator("figure.overlay").count() == 3

    button = page.get_by_role("button", name="mean", exact=True).first
    button.focus()
    for order in ("ascending", "descending"):
        page.keyboard.press("Enter")
        assert button.locator("xpath=ancestor::th").get_attribute("aria-sort") == order
        column = button.evaluate("b => b.closest('th').cellIndex")
        body = button.locator("xpath=ancestor::table").locator("tbody tr")
        shown = [float(row.locator("td").nth(column).inner_text()) for row in body.all()]
        assert shown == sorted(shown, reverse=order == "descending")

    overlay = page.locator("figure.overlay").first
    slices = overlay.locator(".slice:visible")
    assert slices.count() == 1
    before = slices.get_attribute("aria-label")
    overlay.get_by_role("slider").press("End")
    assert slices.get_attribute("aria-label") != before
    overlay.get_by_label("reference").uncheck()
    assert overlay.locator('path[data-arm="0"]:visible').count() == 0
    assert problems == []
    page.close()
