"""The Prometheus configurations that ship, as a test runs them: quicker, and on its own runs."""

from pathlib import Path

import yaml

SHIPPED = Path(__file__).parents[1] / "deploy" / "prometheus"
RULES = str(SHIPPED / "rules" / "*.yml")
REFRESH_S = 1
"""In place of the shipped quarter of a minute: of scrapes and of both discoveries."""


def configuration(path: Path, *, root: Path, driver: str) -> Path:
    """Both shipped files in one, with this root and this driver's address: jobs `headrace` and `headrace-http`."""
    by_file, over_http = (
        yaml.safe_load((SHIPPED / f"{name}.yml").read_text()) for name in ("prometheus", "prometheus-http")
    )
    (files,), (http,) = by_file["scrape_configs"], over_http["scrape_configs"]
    (found,) = files["file_sd_configs"]
    found["files"] = [name.replace("/srv/headrace/runs", str(root)) for name in found["files"]]
    (asked,) = http["http_sd_configs"]
    asked["url"] = asked["url"].replace("127.0.0.1:9400", driver)
    http["job_name"] = "headrace-http"
    every = f"{REFRESH_S}s"
    found["refresh_interval"] = asked["refresh_interval"] = every
    by_file["global"] = {"scrape_interval": every, "evaluation_interval": every}
    by_file |= {"rule_files": [RULES], "scrape_configs": [files, http]}
    path.write_text(yaml.safe_dump(by_file))
    return path
