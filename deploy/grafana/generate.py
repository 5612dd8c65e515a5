"""Write the dashboards as JSON, for Grafana to import: `python -m deploy.grafana.generate`."""

import json
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana.generation import generation
from deploy.grafana.layout import numbered
from deploy.grafana.overview import overview
from deploy.grafana.scoring import scoring
from deploy.grafana.stores import stores
from deploy.grafana.training import training

FOLDER = Path(__file__).with_name("dashboards")


def documents() -> dict[str, str]:
    """File name → JSON, the same bytes every time."""
    found = {}
    for make in (overview, generation, scoring, training, stores):
        text = json.dumps(numbered(make().build()), cls=JSONEncoder, indent=1, sort_keys=True)
        found[f"{make.__name__}.json"] = f"{text}\n"
    return found


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, text in documents().items():
        (FOLDER / name).write_text(text)
        print(f"deploy/grafana/dashboards/{name}: {text.count(chr(10))} lines")


if __name__ == "__main__":
    main()
