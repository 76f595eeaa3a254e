"""The page in a real browser; skipped where there is none."""

import shutil

import pytest

from charter.pipeline.reporting import write_report

CHROMIUM = shutil.which("chromium")

pytestmark = pytest.mark.browser


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_asks_for_nothing_and_breaks_no_policy(run, width, scheme):
    playwright = pytest.importorskip("playwright.sync_api")
    path = write_report(run)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page = context.new_page()
        said, asked = [], []
        page.on("console", lambda message: said.append(message.text))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.resolve().as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
        across = page.evaluate("document.documentElement.scrollWidth")
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        browser.close()
    assert (said, asked) == ([], [path.resolve().as_uri()])
    assert across <= width
    assert (ground == "rgb(20, 23, 28)") == (scheme == "dark")
