"""What MkDocs is told beyond mkdocs.yml: the pages of the site that lie outside docs/, and links to them."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent

# Files beside docs/ that are pages of the site too. A link to one reads "../NAME" in docs/, as on GitHub.
OUTSIDE = {"CHANGELOG.md": "changelog.md", "SECURITY.md": "security.md"}

_VERSION = re.compile(r'^__version__ = "(.+)"$', re.MULTILINE)
_DIAGRAM = re.compile(r'<pre class="mermaid">.*?</pre>', re.DOTALL)
_CODE = re.compile(r"<code>([^<\n]+)</code>")  # in running text; blocks have line ends in them
_HEADING = re.compile(r"(?<=\"><code>)[^<\n]+(?=</code>[^\n]*</h2>)")
_LINE = re.compile(r'<span id="__line-[^"]*">')  # of a block of code
_IN_LINE = re.compile(r'(?<=<span class="csc-line">).*(?=\n</span>)')
_BLANK = re.compile(r'<span class="w">( +)</span>')
_WORD = re.compile(r"(?:<[^>]*>|[^<\s])*-(?:<[^>]*>|[^<\s])*")  # with a hyphen and its tags
_TAG = re.compile(r"<[^>]*>")
_CELL = re.compile(r"<(t[dh])\b.*?</\1>", re.DOTALL)
# Where names of columns and connection strings may be broken; not within a tag.
_PARTS = re.compile(r"(?:(?<=[A-Za-z0-9]_)(?=[A-Za-z])|(?<=;)(?=[A-Z]))(?![^<>]*>)")
_FLAG = re.compile(r"(?<=[ (])--[a-z]+(?:-[a-z]+)*")
_HYPHENATED = re.compile(r"(?<!\S)(?=\S*-)\S{1,32}(?!\S)")  # a browser may break a line after a hyphen
_LONGEST_WHOLE = 32  # characters that fit on a phone
_FIT_ON_A_SCREEN = 4  # participants of a sequence


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Name the version that the pages are about, at the foot of each and on the cover."""
    source = (ROOT / "api_pipeline" / "__init__.py").read_text(encoding="utf-8")
    found = _VERSION.search(source)
    if found is None:
        raise PluginError("api_pipeline/__init__.py has no __version__")
    config.copyright = f"csc-api-pipeline {found.group(1)}, MIT licence"
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside docs/."""
    for name, page in OUTSIDE.items():
        text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Let links to files beside docs/ lead to the pages that they are on the site."""
    for name, address in OUTSIDE.items():
        markdown = markdown.replace(f"](../{name}", f"]({address}")
    return markdown


@event_priority(50)  # before the plugin that puts all pages onto one
def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Give each diagram a box that it can be scrolled in, and say where text may be broken and where not.

    Words like --dry-run stay in one line. Long names in tables may be broken between their words, and a line
    of code between any two, which goes on further in.
    """
    html = _HEADING.sub(lambda found: found.group().replace(".", ".<wbr>"), html)
    html = _IN_LINE.sub(_in_whole_parts, _LINE.sub('<span class="csc-line">', html))
    html = _CODE.sub(_in_whole_words, _DIAGRAM.sub(_in_a_box, html))
    return _CELL.sub(_in_parts, html)


def _in_whole_parts(line: re.Match[str]) -> str:
    return _WORD.sub(_as_whole, _BLANK.sub(r"\1", line.group()))


def _as_whole(word: re.Match[str]) -> str:
    """Keep a word of code in one line, if no tag of the highlighter begins or ends outside of it."""
    inside = word.group()
    depth = 0
    for tag in _TAG.findall(inside):
        depth += -1 if tag.startswith("</") else 1
        if depth < 0:
            return inside
    if depth or len(_TAG.sub("", inside)) > _LONGEST_WHOLE:
        return inside
    return f'<span class="csc-whole">{inside}</span>'


def _in_parts(cell: re.Match[str]) -> str:
    return _PARTS.sub("<wbr>", _FLAG.sub(r'<span class="csc-whole">\g<0></span>', cell.group()))


def _in_whole_words(found: re.Match[str]) -> str:
    words = _HYPHENATED.sub(r'<span class="csc-whole">\g<0></span>', found.group(1))
    return f"<code>{words}</code>"


def _in_a_box(found: re.Match[str]) -> str:
    kind = "sequence" if "sequenceDiagram" in found.group() else "flow"
    size = " csc-wide" if found.group().count("participant ") > _FIT_ON_A_SCREEN else ""
    return f'<div class="csc-diagram csc-{kind}{size}">{found.group()}</div>'
