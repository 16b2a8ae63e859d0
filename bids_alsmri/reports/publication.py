"""Tables for a manuscript: HTML that word processors open, and LaTeX."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "−": r"$-$",
    "∞": r"$\infty$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "²": r"$^2$",
    "³": r"$^3$",
    "°": r"$^\circ$",
}
_STYLE = (
    "table{border-collapse:collapse;font:11pt Georgia,serif}"
    "thead th{border-top:1.5pt solid;border-bottom:.75pt solid;text-align:left}"
    "tbody tr:last-child td{border-bottom:1.5pt solid}td,th{padding:2pt 8pt;vertical-align:top}"
    "caption{text-align:left;font-weight:bold;padding-bottom:4pt}"
)


def html_table(frame: pd.DataFrame, *, title: str, notes: Sequence[str]) -> str:
    """Page with one table.

    Parameters
    ----------
    frame : DataFrame
        Cells of text.
    title : str
        Caption.
    notes : sequence of str
        Said below.

    Returns
    -------
    str
        HTML without anything from elsewhere.

    Examples
    --------
    >>> import pandas as pd
    >>> "<td>&lt;0.001*</td>" in html_table(pd.DataFrame({"p": ["<0.001*"]}), title="T", notes=[])
    True
    """
    head = "".join(f"<th scope='col'>{html.escape(str(name))}</th>" for name in frame)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>"
        for row in frame.itertuples(index=False)
    )
    said = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
    return (
        f"<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'>"
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>\n"
        f"<table><caption>{html.escape(title)}</caption>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{body}\n</tbody></table>\n{said}</body></html>\n"
    )


def latex_table(frame: pd.DataFrame, *, title: str, label: str, notes: Sequence[str]) -> str:
    r"""Table in LaTeX, for the packages booktabs and longtable.

    Parameters
    ----------
    frame : DataFrame
        Cells of text.
    title, label : str
        Caption, and what references name it by.
    notes : sequence of str
        Said below.

    Returns
    -------
    str
        A ``longtable``.

    Examples
    --------
    >>> import pandas as pd
    >>> text = latex_table(pd.DataFrame({"%": ["5_a"]}), title="T", label="t", notes=[])
    >>> r"\%" in text and r"5\_a" in text
    True
    """
    n = len(frame.columns)
    head = " & ".join(escaped(str(name)) for name in frame) + r" \\"
    rows = "\n".join(
        " & ".join(escaped(str(cell)) for cell in row) + r" \\"
        for row in frame.itertuples(index=False)
    )
    said = "".join(
        f"\\multicolumn{{{n}}}{{p{{\\linewidth}}}}{{{escaped(x)}}} \\\\\n" for x in notes
    )
    key = re.sub(r"[^A-Za-z0-9]+", "-", label)
    return (
        "% needs \\usepackage{booktabs,longtable}\n"
        f"\\begin{{longtable}}{{{'l' * n}}}\n"
        f"\\caption{{{escaped(title)}}}\\label{{tab:{key}}}\\\\\n\\toprule\n{head}\n\\midrule\n"
        f"\\endfirsthead\n\\toprule\n{head}\n\\midrule\n\\endhead\n{rows}\n\\bottomrule\n{said}"
        "\\end{longtable}\n"
    )


def escaped(text: str) -> str:
    r"""Text whose characters mean themselves in LaTeX.

    Parameters
    ----------
    text : str
        Any.

    Returns
    -------
    str

    Examples
    --------
    >>> print(escaped("a & b < −5 %"))
    a \& b $<$ $-$5 \%
    """
    return "".join(_LATEX.get(character, character) for character in text)
