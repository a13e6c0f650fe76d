"""The table of what peers offer, as Markdown for the README of the annotations."""

from __future__ import annotations

from typing import Any

from measured import table
from peers import OURS

#: How a verdict is printed.
CELLS = {"yes": "yes", "partly": "partly", "wrong": "**wrong**", "refused": "raises", "no": "-"}


def peer_table(result: dict[str, Any]) -> list[str]:
    """Return the lines of the table, ours first, then what is behind its verdicts."""
    peers: dict[str, dict[str, Any]] = result["peers"]
    names = sorted(peers, key=lambda name: name != OURS)
    notes: list[str] = []
    rows = []
    for row in next(iter(peers.values()))["rows"]:
        cells = []
        for name in names:
            outcome = peers[name]["rows"][row]
            cell = CELLS[outcome["verdict"]]
            if outcome["said"] and outcome["verdict"] != "no":
                note = f"{name}: {outcome['said']}"
                if note not in notes:
                    notes.append(note)
                cell += f" [{notes.index(note) + 1}]"
            cells.append(cell)
        rows.append([row, *cells])
    head = ["offered", *(f"**{name}**" if name == OURS else name for name in names)]
    return [
        *table(head, rows),
        "",
        '"yes": ran, and every pixel, weight or box was compared with who owns which pixels. '
        '"-": no such thing, by its public names or arguments. "raises" and "wrong": ran, with '
        "the outcome below.",
        "",
        *(f"{number}. {_ended(note)}" for number, note in enumerate(notes, 1)),
        "",
        *(f"- {text}" for text in result["read"]),
        "",
        f"<sub>{_versions(peers)} Run on {result['date']}; `benchmarks/results/{result['file']}`; "
        "`python benchmarks/peers.py` tries them again.</sub>",
    ]


def _versions(peers: dict[str, dict[str, Any]]) -> str:
    texts = []
    for name, peer in peers.items():
        version = ", ".join(f"{package} {number}" for package, number in peer["versions"].items())
        texts.append(f"{version} ({peer['note']})" if peer["note"] else version)
        if name == OURS:
            texts[-1] = f"this version, with {texts[-1]}"
    return "; ".join(texts) + "."


def _ended(note: str) -> str:
    return note if note.endswith("...") else f"{note}."
