from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.metrics import METRIC_NAMES

GRAFANA = Path(__file__).parents[2] / "deploy" / "grafana"
DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "steptool.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]


def covered_cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
    at = panel["gridPos"]
    return {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}


def test_panel_ids_are_unique_and_every_panel_says_what_it_shows() -> None:
    ids = [panel["id"] for panel in PANELS]
    assert len(ids) == len(set(ids)) > 0
    assert all(panel["title"] and panel["description"] and panel["targets"] for panel in PANELS)


def test_panels_fit_the_grid_of_24_columns_without_overlap() -> None:
    cells = [cell for panel in PANELS for cell in covered_cells(panel)]
    assert len(cells) == len(set(cells))
    assert all(0 <= x < 24 for x, _ in cells)


def test_targets_of_a_panel_have_distinct_reference_ids() -> None:
    for panel in PANELS:
        references = [target["refId"] for target in panel["targets"]]
        assert len(references) == len(set(references))


def test_the_dashboard_shows_exactly_the_metrics_that_a_run_exports() -> None:
    shown = {name for expression in EXPRESSIONS for name in re.findall(r"ray_(steptool_\w+)", expression)}
    assert shown == set(METRIC_NAMES)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_is_filtered_by_session_and_run(expression: str) -> None:
    assert '{SessionName=~"$SessionName", run=~"$run"}' in expression
    assert expression.count("(") == expression.count(")")


def test_the_template_variables_are_the_ones_that_the_expressions_use() -> None:
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == ["datasource", "SessionName", "run"]
    assert {panel["datasource"]["uid"] for panel in PANELS} == {"${datasource}"}


def test_prometheus_finds_the_nodes_through_the_file_that_ray_writes() -> None:
    from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

    (job,) = yaml.safe_load((GRAFANA / "prometheus.yml").read_text())["scrape_configs"]
    (discovery,) = job["file_sd_configs"]
    assert [Path(file).name for file in discovery["files"]] == [PROMETHEUS_SERVICE_DISCOVERY_FILE]
