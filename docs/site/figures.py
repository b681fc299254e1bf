"""Draws the pictures of ``docs/figures`` from a real study, with Luthier's own figures and a headless Chromium.

python docs/site/figures.py study.db docs/figures progress curves paired
python docs/site/figures.py luthier-quickstart docs/figures lr_range
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from plotly.offline import get_plotlyjs

from luthier import store
from luthier.core.history import fold
from luthier.view.figures import FIGURES

WIDTH, HEIGHT = 720, 300
PAGE = """<meta charset="utf-8"><script>{library}</script><div id="figure"></div><pre id="out"></pre><script>
Promise.all({specs}.map(s => Plotly.toImage({{data: s.data, layout: s.layout}},
  {{format: "svg", width: {width}, height: s.layout.height || {height}}})))
  .then(all => {{ document.getElementById("out").textContent = all.map(u =>
    btoa(unescape(encodeURIComponent(decodeURIComponent(u.split(",").slice(1).join(",")))))).join(" "); }});
</script>"""


def draw(specs: list[dict[str, object]]) -> list[str]:
    """Each figure as the text of an SVG file."""
    page = PAGE.format(library=get_plotlyjs(), specs=json.dumps(specs), width=WIDTH, height=HEIGHT)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figures.html"
        file.write_text(page, encoding="utf-8")
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile"]
        command += ["--virtual-time-budget=60000", "--timeout=300000", "--dump-dom", file.as_uri()]
        dom = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r'<pre id="out">([^<]*)</pre>', dom)
    if not found or not found[1]:
        raise SystemExit("Chromium drew nothing.")
    return [base64.b64decode(part).decode() for part in found[1].split()]


def small(svg: str) -> str:
    """With coordinates to a tenth of a pixel, which is all that a picture of this size shows; text stays as it is."""

    def rounded(tag: re.Match[str]) -> str:
        return re.sub(r"\d+\.\d{2,}", lambda m: f"{float(m[0]):.1f}".removesuffix(".0"), tag[0])

    return re.sub(r"<[^>]+>", rounded, svg) + "\n"


def main(place: str, folder: str, *names: str) -> None:
    """Write ``NAME.svg``, or ``NAME-1.svg`` and so on where there are several panels."""
    log = store.open_store(place, None)
    history = fold(log.read())
    log.close()
    specs = [(name, i, spec) for name in names for i, spec in enumerate(FIGURES[name](history))]
    Path(folder).mkdir(parents=True, exist_ok=True)
    for (name, i, _), svg in zip(specs, draw([spec for _, _, spec in specs])):
        several = sum(other == name for other, _, _ in specs) > 1
        (Path(folder) / f"{name}{f'-{i + 1}' if several else ''}.svg").write_text(small(svg), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
