"""Draw the dashboards from a Prometheus, each as one page, where there is no Grafana.

    python -m deploy.grafana.render --prometheus http://127.0.0.1:9090 --out pages [--run NAME] [--last 10m]

Draws the very panels of deploy/grafana/dashboards/. Without --run the run seen last; without --last all that the server has
of it within a day. A run that is over is drawn up to its last scrape.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from deploy.grafana.render.api import Prometheus, Refused
from deploy.grafana.render.page import page
from deploy.grafana.render.window import duration_s, window

DASHBOARDS = Path(__file__).parents[1] / "dashboards"
ORDER = ("overview", "generation", "scoring", "training", "stores")


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0, or 2 for what the user can mend."""
    given = _parse(arguments)
    try:
        for path in render(given.prometheus, given.out, run=given.run, last_s=given.last):
            print(path)
    except Refused as error:
        print(f"--prometheus = {given.prometheus}: {error}", file=sys.stderr)
        return 2
    return 0


def render(url: str, out: Path, *, run: str | None = None, last_s: float | None = None) -> list[Path]:
    """The pages, written. Refused: no such run, or no answer."""
    server = Prometheus(url)
    shown = window(server, run=run, last_s=last_s, now=time.time())
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in ORDER:
        dashboard = json.loads((DASHBOARDS / f"{name}.json").read_text())
        path = out / f"{name}.html"
        path.write_text(page(dashboard, server, shown, sisters=ORDER))
        paths.append(path)
    return paths


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.grafana.render", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--prometheus", required=True, metavar="URL", help="such as http://127.0.0.1:9090")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the pages")
    parser.add_argument("--run", metavar="NAME", help="default: the run seen last")
    parser.add_argument("--last", type=_last, metavar="TIME", help="such as 10m; default: the whole run")
    return parser.parse_args(arguments)


def _last(text: str) -> float:
    try:
        return duration_s(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    sys.exit(main())
