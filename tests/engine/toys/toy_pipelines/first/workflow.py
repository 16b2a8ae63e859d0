"""The first toy, step by step."""

from __future__ import annotations

from toy_nodes import Draw, Jitter, Join, Scale


def fit(graph, scan, cfg) -> None:
    """Scale and jitter."""
    scaled = graph.step(
        "scale", Scale(factor=cfg.factor, n_threads=graph.n_threads), in_file=graph.files("t1w")[0]
    )
    noisy = graph.step("jitter", Jitter(), in_file=scaled.out_file)
    graph.save("scaled", scaled.out_file, facts=scaled.facts)
    graph.save("noisy", noisy.out_file)
    drawn = graph.step("draw", Draw(title=scan.label), in_file=noisy.out_file)
    graph.figure("picture", drawn.out_file)
    if cfg.has_copy:
        graph.save("copy", scaled.out_file)


def apply(graph, scan, cfg) -> None:
    """Join the results."""
    joined = graph.step(
        "join",
        Join(decimals=cfg.decimals),
        in_files=[graph.saved("scaled"), graph.saved("noisy")],
    )
    graph.save("joined", joined.out_file)
    if cfg.has_second_join:
        graph.save("joined_again", joined.out_file)
