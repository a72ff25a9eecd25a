"""The files of the living figures: small, without a network, their stills fresh, their labels readable; and driven in Chromium."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from pathlib import Path

import pytest
from living_figures import FIGURES, calls, needs_node, node, run

MODULES = sorted(FIGURES.glob("*.js"))
SHARED = ("common.js", "page.js", "steps.js")
NAMES = sorted(p.stem for p in FIGURES.glob("*.html"))
SERVED = sorted(p for p in FIGURES.iterdir() if p.suffix in (".html", ".js", ".svg"))
LARGEST = 50_000  # bytes


pytestmark = needs_node


def name(path: Path) -> str:
    return path.name


def test_there_are_ten_and_each_is_listed():
    (listed,) = calls([("index.js", "names")])
    assert len(listed) == 10 and sorted(listed) == NAMES
    assert all((FIGURES / f"{x}.{kind}").is_file() for x in NAMES for kind in ("js", "svg"))


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_module_is_small_and_asks_nothing_of_a_network(path):
    text = path.read_text(encoding="utf-8")
    assert path.stat().st_size <= LARGEST
    assert not re.search(r"fetch\(|XMLHttpRequest|WebSocket|EventSource|sendBeacon|importScripts|eval\(", text)
    for target in re.findall(r"""(?:from|import)\s*\(?["']([^"']+)["']""", text):
        assert re.fullmatch(r"\./\w+\.js", target), target


@pytest.mark.parametrize("figure", NAMES)
def test_a_figure_with_all_that_it_loads_is_small(figure):
    assert sum((FIGURES / file).stat().st_size for file in (f"{figure}.js", *SHARED)) <= LARGEST


@pytest.mark.parametrize("path", SERVED, ids=name)
def test_no_address_but_the_namespace_of_svg(path):
    found = set(re.findall(r"(?:https?:)?//[\w-]+(?:\.[\w-]+)+[^\s\"'`)]*", path.read_text(encoding="utf-8")))
    assert found <= {"http://www.w3.org/2000/svg"}


def test_stills_and_pages_are_what_the_modules_draw(tmp_path):
    done = node(["pages.mjs", str(tmp_path)])
    assert done.returncode == 0, done.stderr
    for figure, kind in itertools.product(NAMES, ("svg", "html")):
        made, kept = (p / f"{figure}.{kind}" for p in (tmp_path, FIGURES))
        assert made.read_bytes() == kept.read_bytes(), f"{kept.name} is stale: node site/figures/pages.mjs"


def test_each_figure_says_its_picture_in_a_sentence():
    code = """
const { numbersOf } = await import(`${here}/common.js`);
const found = [];
for (const name of NAMES) {
  const { default: figure } = await import(`${here}/${name}.js`);
  found.push(figure.says(numbersOf(figure), figure.state));
  for (const handle of figure.handles ?? []) found.push(handle.value(figure.state, numbersOf(figure)).text);
}
process.stdout.write(JSON.stringify(found));
""".replace("NAMES", json.dumps(NAMES))
    for sentence in json.loads(run(code)):
        assert re.search(r"\d", sentence) and not re.search(r"NaN|undefined|null|\[object", sentence), sentence


# Where a label lies, as [left, top, right, bottom], in a font of usual width.
LABELS = """
const { drawn, DARK, numbersOf } = await import(`${here}/common.js`);
const rows = [];
const known = {};
for (const [name, width, patch] of CASES) {
  const { default: figure } = await import(`${here}/${name}.js`);
  const numbers = (known[name + JSON.stringify(patch)] ??= numbersOf(figure, patch));
  const { pen, layout } = drawn(figure, width, patch, DARK, numbers);
  const boxes = [];
  for (const part of pen.parts) {
    const found = /^<text x="(.*?)" y="(.*?)" text-anchor="(.*?)".*?font-size="(.*?)"(.*?)>(.*)<.text>$/.exec(part);
    if (!found) continue;
    const [, x, y, anchor, size, rest, escaped] = found;
    const words = escaped.replace(/&\\w+;/g, "x");
    const w = words.length * Number(size) * (rest.includes("font-weight") ? 0.56 : 0.5);
    const left = Number(x) - { start: 0, middle: w / 2, end: w }[anchor];
    boxes.push([left, Number(y) - 0.75 * size, left + w, Number(y) + 0.15 * size, words]);
  }
  rows.push([layout.height, boxes]);
}
process.stdout.write(JSON.stringify(rows));
"""
WIDTHS = (310, 350, 619, 640, 934)  # phones, the narrowest of two columns, and as wide as a page gives
PATCHES = {
    "grams_rule": ({}, {"gx": -1.1, "gy": 1.1}, {"gx": 0.01, "gy": -1.1}),
    "long_step": ({}, {"before": 1}, {"before": 12}, {"eta": 0.0}, {"eta": 0.8}),
    "rotated_bowl": ({}, {"degrees": 45}, {"degrees": -90, "logKappa": 3}),
    "noise_walk": ({}, {"logBatch": 12, "matched": True}),
    "windows": ({}, {"a": 0.5}, {"a": 42}),
    "thermostat": ({}, {"logEps": 0}, {"logEps": -2, "rule": "Grams"}),
    "energy_ball": ({}, {"x": 0, "y": 0}, {"friction": 0}),
    "shaving": ({}, {"share": 2.5}, {"decay": "L2"}),
    "chase": ({}, {"degrees": 0}, {"degrees": 30, "rho": 0.98}),
    "stuck_v": ({}, {"logG": 0.5}, {"logG": -5.5, "memory": 2}),
}


def test_no_label_leaves_the_picture_or_covers_another():
    assert sorted(PATCHES) == NAMES
    cases = [(x, width, patch) for x in NAMES for width in WIDTHS for patch in PATCHES[x]]
    faults = []
    for case, (height, boxes) in zip(cases, json.loads(run(LABELS.replace("CASES", json.dumps(cases)))), strict=True):
        for left, top, right, bottom, text in boxes:
            if left < -2 or right > case[1] + 2 or top < 0 or bottom > height:
                faults.append((*case, "leaves", text))
        for (a, b, c, d, one), (e, f, g, h, two) in itertools.combinations(boxes, 2):
            if min(c, g) - max(a, e) > 1 and min(d, h) - max(b, f) > 1:
                faults.append((*case, one, "over", two))
    assert not faults, "\n".join(map(str, faults))


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)")
def test_in_chromium_mouse_finger_and_keys_move_every_figure():
    if node(["-p", "typeof WebSocket"]).stdout.strip() != "function":
        pytest.skip("this Node has no WebSocket to speak with Chromium: 22 and newer have")
    done = node(["drive.mjs", str(CHROMIUM)], timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert sorted(found) == NAMES
    for figure, x in found.items():
        assert x["errors"] == x["outside"] == x["missing"] == [], figure
        assert x["handles"] or x["controls"], figure
        for handle in x["handles"]:
            assert handle["mouse"] and handle["touch"], (figure, handle)
            assert handle["ArrowLeft"] or handle["ArrowRight"], (figure, handle)
            assert handle["ArrowUp"] or handle["ArrowDown"], (figure, handle)
            assert handle["mouse layouts"] == handle["touch layouts"] == 0, (figure, handle)  # none in a frame
            assert handle["action"] == "none" and handle["label"] and handle["text"], (figure, handle)
        assert all(control["keys"] for control in x["controls"]), (figure, x["controls"])
        assert x["wide"] == 390, figure  # nothing to scroll sideways
        assert x["focus"] == "solid" and not x["blank"] and x["says"], figure
        assert x["themes"] == ["rgb(255, 255, 255)", "rgb(20, 24, 29)"], figure
        assert x["calm"], f"{figure} moves by itself although the reader asked for less motion"
        assert x["print"] == [False, False, True] and x["still"] == 720, figure


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)")
def test_the_time_of_a_frame_can_be_measured():
    """It says nothing of whether the time is short: that is the machine's. `node site/figures/frames.mjs chromium` prints it."""
    if node(["-p", "typeof WebSocket"]).stdout.strip() != "function":
        pytest.skip("this Node has no WebSocket to speak with Chromium: 22 and newer have")
    done = node(["frames.mjs", str(CHROMIUM), "--slower", "1", "grams_rule"], timeout=300)
    assert done.returncode == 0, done.stderr
    (row,) = [line for line in done.stdout.splitlines() if line.startswith("grams_rule")]
    frames, *times = map(float, re.findall(r" ([\d.]+)", row.partition("gradient")[2]))
    assert frames >= 10 and len(times) == 6
    assert 0 < times[0] <= times[1] <= times[2] and times[0] < times[3] <= times[4] <= times[5]
