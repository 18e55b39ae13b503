"""The templates of pages: how their texts are escaped."""

from __future__ import annotations

import re

import jinja2
from markupsafe import Markup, escape

from headsearch.runs.storage_url import without_passwords
from headsearch.text import for_markdown, printable_lines


def page_environment() -> jinja2.Environment:
    """The environment that renders the templates of this package.

    A page of its own extends `page.html.j2`, sets `title`, fills the block `body` and imports its
    tables from `macros.html.j2`. Names ending in .html.j2 are escaped for HTML; a Markdown template
    passes its texts through the filter `md`, and sentences with commands go through `commands`.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("headsearch.report", ""),
        autoescape=jinja2.select_autoescape(("html.j2",)),
        undefined=jinja2.StrictUndefined,  # a misspelt name in a template is an error
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=harmless,
    )
    environment.filters["md"] = markdown
    environment.filters["commands"] = html
    return environment


_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
_COMMAND = re.compile(r"`(headsearch [^`|\n]+)`")


def markdown(text: str) -> str:
    """A text escaped for Markdown, with its commands as code and without passwords."""
    parts = _COMMAND.split(without_passwords(text))
    return "".join(f"`{part}`" if i % 2 else for_markdown(part) for i, part in enumerate(parts))


def html(text: str) -> Markup:
    """A text escaped for HTML, with its commands as code and without passwords.

    Browsers break lines after hyphens, but flags such as --eval-images stay whole.
    """
    escaped = str(escape(printable_lines(without_passwords(text))))
    parts = _COMMAND.split(escaped)
    return Markup(
        "".join(
            f"<code>{part}</code>" if i % 2 else _FLAG.sub(r'<span class="flag">\g<0></span>', part)
            for i, part in enumerate(parts)
        )
    )


def harmless(value: object) -> object:
    """A value for the template without unprintable characters and passwords; not our own SVG."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return printable_lines(without_passwords(value))
