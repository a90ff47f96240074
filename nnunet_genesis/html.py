"""Pages that we write: self-contained, and escaped whatever is in them."""

from base64 import b64encode

import jinja2
from markupsafe import Markup

from nnunet_genesis.errors import printable


def template(package: str, folder: str, name: str, **filters: object) -> jinja2.Template:
    """Load a template of a package; it has the filter ``base64`` (of bytes) and those given."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(package, folder),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
    )
    environment.filters.update(base64=lambda content: b64encode(content).decode(), **filters)
    return environment.get_template(name)
