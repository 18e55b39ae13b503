"""The pages that are notebooks, turned into Markdown.

They are committed without outputs. With NOTEBOOKS=run in the environment they are run first, which
takes a minute, and the pages show what they print and draw.
"""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for each notebook; the notebook itself stays, to be downloaded."""
    for file in list(files):
        if file.src_uri.endswith(".ipynb"):
            for page in _pages(file, config):
                files.append(page)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """A link to a notebook leads to its page."""
    return markdown.replace(".ipynb)", ".md)")


def _pages(file: File, config: MkDocsConfig) -> list[File]:
    """The page of a notebook and the pictures that it shows."""
    notebook = nbformat.reads(file.content_string, as_version=4)
    if os.environ.get("NOTEBOOKS") == "run":
        from nbclient import NotebookClient

        NotebookClient(notebook, timeout=900).execute()
        for (
            cell
        ) in notebook.cells:  # without what libraries say of the machine that builds the site
            if "outputs" in cell:
                cell.outputs = [x for x in cell.outputs if x.get("name") != "stderr"]
    stem = file.src_uri.removesuffix(".ipynb")
    text, resources = MarkdownExporter().from_notebook_node(
        notebook, {"unique_key": Path(stem).name, "output_files_dir": f"{Path(stem).name}_files"}
    )
    # As HTML: a Markdown link to a notebook leads to its page.
    text += f'\n\n<a href="{Path(file.src_uri).name}" download>Download this notebook</a>\n'
    pictures = [
        File.generated(config, str(Path(stem).parent / path), content=content)
        for path, content in resources.get("outputs", {}).items()
    ]
    return [File.generated(config, f"{stem}.md", content=text), *pictures]
