"""The role ``coded``: a link from a formula to the line of the package that codes it.

``:coded:`skddvi._engine.objective.bound_terms``` links to the line where that function, class or
method is defined, on a page with the highlighted source of its module. A name that is not there is
a warning, and so an error of a build with ``-W``.
"""

import ast
import importlib.util
from pathlib import Path

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer
from sphinx.util import logging
from sphinx.util.docutils import SphinxRole
from sphinx.util.osutil import relative_uri

FOLDER = "source"
logger = logging.getLogger(__name__)


def find(name):
    """Return module, its file and the syntax node of a dotted name; LookupError without it."""
    parts = name.split(".")
    for n_parts in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:n_parts])
        try:
            spec = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            continue
        if spec is not None and spec.origin is not None:
            break
    else:
        raise LookupError(f"no module holds {name}")
    node = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    for part in parts[n_parts:]:
        found = [
            child
            for child in node.body
            if isinstance(child, ast.FunctionDef | ast.ClassDef) and child.name == part
        ]
        if not found:
            raise LookupError(f"{module} has no {'.'.join(parts[n_parts:])}")
        node = found[0]
    return module, Path(spec.origin), node


class Coded(SphinxRole):
    """``:coded:`dotted.name```."""

    def run(self):
        """Return the link, or the name alone where the output is not HTML."""
        try:
            module, path, node = find(self.text)
        except LookupError as error:
            logger.warning("coded: %s", error, location=self.get_location())
            return [nodes.literal(text=self.text)], []
        builder = self.env.app.builder
        text = nodes.literal(text=self.text.removeprefix("skddvi."))
        if builder.format != "html":
            return [text], []
        modules = getattr(self.env, "coded_modules", {}) | {module: str(path)}
        self.env.coded_modules = modules
        here = builder.get_target_uri(self.env.docname)
        there = builder.get_target_uri(f"{FOLDER}/{module}")
        link = nodes.reference(refuri=f"{relative_uri(here, there)}#L-{node.lineno}")
        link += text
        return [link], []


def pages(app):
    """Yield the page of each module that is linked to."""
    formatter = HtmlFormatter(linenos="inline", lineanchors="L", anchorlinenos=True)
    for module, path in sorted(getattr(app.env, "coded_modules", {}).items()):
        code = highlight(Path(path).read_text(encoding="utf-8"), PythonLexer(), formatter)
        body = f"<h1>{module}</h1>{code}"
        yield f"{FOLDER}/{module}", {"title": module, "body": body}, "page.html"


def setup(app):
    """Register the role and its pages."""
    app.add_role("coded", Coded())
    app.connect("html-collect-pages", pages)
    # What is linked to is kept with the environment, so a rebuild in parts forgets nothing.
    return {"parallel_read_safe": False, "parallel_write_safe": True, "version": "1"}
