"""The page of a report: whole, without anything from elsewhere, harmless whatever stands in it, and fit to be seen."""

from __future__ import annotations

import base64
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from autoperfd.core.survey import Survey, lasting
from autoperfd.report import page
from autoperfd.results.gather import Gathered
from tests.markup import Elements
from tests.programs import needed
from tests.report.support import BEGAN, gathered

HOSTILE = "</title><script>document.title='owned'</script><img src=http://192.0.2.1/x onerror=alert(1)>'\"&{{7*7}}"


def rendered(found: Gathered) -> str:
    return "".join(page.render(found, BEGAN + 900_000))


def spoilt(found: Gathered) -> Gathered:
    """The same with hostile words wherever words come from outside."""
    attempts = tuple(replace(a, code=HOSTILE, reason=HOSTILE, machine=HOSTILE) for a in found.attempts)
    tests = tuple(
        replace(
            test,
            name=f"{test.name}{HOSTILE}",
            last=test.last and replace(test.last, code=HOSTILE, reason=HOSTILE),
            figures={**test.figures, "tool_version": f"{HOSTILE}{number % 2}"} if test.figures else {},
        )
        for number, test in enumerate(found.tests)
    )
    surveys = tuple(
        Survey("p1", number, 1.7e9, lasting({"kernel": f"{HOSTILE}{number}", HOSTILE: "x"})) for number in range(2)
    )
    return replace(found, name=HOSTILE, attempts=attempts, tests=tests, surveys=surveys)


@pytest.fixture(scope="module")
def plain() -> str:
    return rendered(gathered())


def test_it_needs_nothing_from_elsewhere(plain: str) -> None:
    found = Elements(plain)
    assert "script" not in found.tags and "link" not in found.tags and "iframe" not in found.tags
    assert all(value.startswith("data:image/svg+xml;base64,") for _, name, value in found.attributes if name == "src")
    assert not any(name == "href" for _, name, _ in found.attributes)
    assert ("meta", "content", "default-src 'none'; img-src data:; style-src 'unsafe-inline'") in found.attributes
    for svg in re.findall(r"data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)", plain):
        text = base64.b64decode(svg).decode()
        assert "<script" not in text and "font-family" not in text and "<image" not in text


def test_it_tells_of_every_test_and_every_plot_has_words(plain: str) -> None:
    found = Elements(plain)
    cells = [value for tag, name, value in found.attributes if (tag, name) == ("i", "title")]
    assert len(cells) == 288
    assert cells[0] == "30SEC_100B_1PUB_1SUB_REL_MC_0DUR_100LC: proven, 1 attempt"
    assert sum(": given up, 3 attempts; " in cell for cell in cells) == 4
    assert found.tags.count("img") == 7
    assert len([value for tag, name, value in found.attributes if (tag, name) == ("img", "alt") and value]) == 7
    text = "".join(found.words)
    for words in ("280 of them were tried", "What to be careful about", "Why attempts failed", "armv7l", "given up"):
        assert words in text


def test_hostile_words_stay_words() -> None:
    text = rendered(spoilt(gathered(space=SMALLER)))
    found = Elements(text)
    assert "script" not in found.tags and text.count("<img ") == found.tags.count("img")
    assert all(name != "onerror" for _, name, _ in found.attributes)
    assert "{{7*7}}" in text and "".join(found.words).count("<script>document.title") > 10


def test_the_same_data_give_the_same_page() -> None:
    assert rendered(gathered(space=SMALLER)) == rendered(gathered(space=SMALLER))


@pytest.mark.parametrize("what", ["nothing tried", "one test", "no figures", "many values"])
def test_little_to_tell_is_told(what: str) -> None:
    found = gathered(space=SMALLER)
    match what:
        case "nothing tried":
            tests = tuple(replace(t, state="missing", attempts=0, last=None, figures={}) for t in found.tests)
            found = replace(found, tests=tests, attempts=(), surveys=())
        case "one test":
            found = replace(found, tests=found.tests[:1], attempts=found.attempts[:1], planned=1)
        case "no figures":
            found = replace(found, tests=tuple(replace(t, figures={}) for t in found.tests))
        case "many values":
            found = gathered(space=SMALLER.replace("[100, 1000]", str(list(range(100, 160)))))
    assert "</html>" in rendered(found)


SMALLER = """
duration_secs = [30]
datalen_bytes = [100, 1000]
pub_count = [1, 10]
sub_count = [1]
use_reliable = [true, false]
"""


# ---------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def chromium() -> str:
    return needed("chromium", "chromium")


def browse(chromium: str, path: Path, profile: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Open a page in a browser without a network, until it has been drawn."""
    argv = [
        chromium,
        "--headless=new",
        "--disable-gpu",
        "--hide-scrollbars",
        "--enable-logging=stderr",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={profile}",
        *(["--no-sandbox"] if os.getuid() == 0 else []),
        *words,
        path.as_uri(),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    assert "CONSOLE" not in done.stderr, done.stderr  # what it refused, or could not make sense of
    return done


@pytest.mark.parametrize(("width", "height"), [(1280, 2400), (360, 3600)])
def test_it_is_seen_on_a_desk_and_on_a_phone(
    width: int, height: int, plain: str, chromium: str, tmp_path: Path
) -> None:
    (tmp_path / "report.html").write_text(plain, encoding="utf-8")
    picture = tmp_path / "report.png"
    words = (f"--window-size={max(width, 500)},{height}", f"--screenshot={picture}")
    browse(chromium, tmp_path / "report.html", tmp_path / "profile", *words)
    with Image.open(picture) as image:
        seen = image.convert("RGB")
    colours = {colour: count for count, colour in seen.getcolors(1 << 24) or []}
    share = {name: colours.get(rgb, 0) / (seen.width * seen.height) for name, rgb in COLOURS.items()}
    assert share["paper"] > 0.5 and share["ok"] > 0.003 and share["failed"] > 0.0001 and share["median"] > 0.0001, share


COLOURS = {"paper": (255, 255, 255), "ok": (0, 158, 115), "failed": (213, 94, 0), "median": (0, 114, 178)}


def test_a_browser_runs_nothing_of_what_stands_in_it(chromium: str, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(rendered(spoilt(gathered(space=SMALLER))), encoding="utf-8")
    dom = browse(chromium, tmp_path / "report.html", tmp_path / "profile", "--dump-dom").stdout
    assert "<script" not in dom and dom.count("<title>") == 1
    title = dom.partition("<title>")[2].partition("</title>")[0]
    assert title.startswith("&lt;/title&gt;&lt;script&gt;document.title=") and title.endswith(": results")
