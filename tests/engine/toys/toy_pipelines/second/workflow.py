"""The second toy, step by step."""

from __future__ import annotations

from toy_nodes import Scale


def fit(graph, scan, cfg) -> None:
    """Scale what the first toy gave."""
    scaled = graph.step(
        "scale", Scale(factor=cfg.factor), in_file=graph.from_pipeline("first", "joined")
    )
    graph.save("again", scaled.out_file, facts=scaled.facts)


def apply(graph, scan, cfg) -> None:
    """Do nothing."""
