"""Write the dashboards as JSON for Grafana, and what their panels are for into docs/dashboards.md.

python -m deploy.grafana.generate
"""

import json
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana.generation import generation
from deploy.grafana.layout import numbered
from deploy.grafana.overview import overview
from deploy.grafana.scoring import scoring
from deploy.grafana.stores import stores
from deploy.grafana.training import training

FOLDER = Path(__file__).with_name("dashboards")
PAGE = Path(__file__).parents[2] / "docs" / "dashboards.md"
BEGIN, END = "<!-- begin panels -->\n", "<!-- end panels -->\n"


def documents() -> dict[str, str]:
    """File name → JSON, the same bytes every time."""
    found = {}
    for make in (overview, generation, scoring, training, stores):
        text = json.dumps(numbered(make().build()), cls=JSONEncoder, indent=1, sort_keys=True)
        found[f"{make.__name__}.json"] = f"{text}\n"
    return found


def described(page: str) -> str:
    """The page with the panels as they are now between its marks."""
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    return f"{before}{BEGIN}{''.join(map(_described, documents().values()))}\n{END}{after}"


def _described(document: str) -> str:
    dashboard = json.loads(document)
    name = dashboard["title"].rpartition("/")[2].strip()
    lines = [f"\n## {name.capitalize()}\n", f"{dashboard['description']}\n", f"![The {name} dashboard of a run](dashboards/{name}.png)\n"]  # fmt: skip
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            closed = " (closed at first)" if panel["collapsed"] else ""
            lines += [f"\n**{panel['title']}**{closed}\n", "| panel | what it says, and what to do |\n|---|---|"]
            lines += [_line(inner) for inner in panel["panels"]]
        else:
            lines.append(_line(panel))
    return "\n".join(lines) + "\n"


def _line(panel: dict[str, Any]) -> str:
    return f"| {panel['title']} | {panel['description']} |"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, text in documents().items():
        (FOLDER / name).write_text(text)
        print(f"deploy/grafana/dashboards/{name}: {text.count(chr(10))} lines")
    PAGE.write_text(described(PAGE.read_text()))


if __name__ == "__main__":
    main()
