"""The OpenAPI document as one self-contained page: no script, nothing from elsewhere, readable without a network."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #1a1a1a; background: #fff }
h2 { border-top: 1px solid #bbb; padding-top: 1.5rem } h2 code { font-size: 1.1rem }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0 }
tr { border-bottom: 1px solid #ddd } code, pre { font-family: ui-monospace, monospace; font-size: .9rem }
pre { background: #f3f3f3; padding: .75rem; overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere }
@media (prefers-color-scheme: dark) { body { color: #e6e6e6; background: #161616 } pre { background: #242424 }
  tr, h2 { border-color: #444 } a { color: #8ab4f8 } }
"""


def render(document: Mapping[str, Any]) -> str:
    """The page for `document`. Everything in it is escaped."""
    info = document["info"]
    operations = [
        _operation(document, path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(info['title'])}</title><style>{_STYLE}</style></head><body>\n"
        f"<h1>{escape(info['title'])}</h1>\n<p>{_text(info['description'])}</p>\n"
        '<p>The same for machines: <a href="openapi.json">openapi.json</a>.</p>\n'
        f"{''.join(operations)}</body></html>\n"
    )


def _operation(document: Mapping[str, Any], path: str, method: str, operation: Mapping[str, Any]) -> str:
    parts = [
        f'<section id="{escape(operation["operationId"])}">\n',
        f"<h2><code>{method.upper()} {escape(path)}</code></h2>\n",
        f"<p><b>{_text(operation['summary'])}.</b> {_text(operation.get('description', ''))}</p>\n",
    ]
    rows = "".join(
        f"<tr><td><code>{escape(parameter['name'])}</code></td><td>{escape(parameter['in'])}</td>"
        f"<td>{_text(parameter['description'])}</td></tr>\n"
        for parameter in operation.get("parameters", [])
        if "description" in parameter
    )
    if rows:
        parts.append(f"<table><tr><th>parameter</th><th>in</th><th>meaning</th></tr>\n{rows}</table>\n")
    parts.append(_request(document, path, operation))
    for status, response in operation["responses"].items():
        parts.append(_response(document, str(status), response))
    return "".join([*parts, "</section>\n"])


def _request(document: Mapping[str, Any], path: str, operation: Mapping[str, Any]) -> str:
    if "requestBody" not in operation:
        return ""
    schema = _resolve(document, operation["requestBody"]["content"]["application/json"]["schema"])
    rows = "".join(_rows(document, schema))
    curls = "".join(
        f"<pre>curl -N http://HOST{escape(path)} -H 'content-type: application/json' \\\n"
        f"  -d '{escape(json.dumps(example, ensure_ascii=False), quote=False)}'</pre>\n"
        for example in schema.get("examples", [])
    )
    return f"{curls}<table><tr><th>field</th><th>type</th><th>meaning</th></tr>\n{rows}</table>\n"


def _rows(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[str]:
    required = schema.get("required", [])
    for name, field in schema["properties"].items():
        meaning = [field.get("description", "")]
        if name in required:
            meaning.append("Required.")
        elif field.get("default") not in (None, [], {}):
            meaning.append(f"Default: {json.dumps(field['default'])}.")
        yield (
            f"<tr><td><code>{escape(name)}</code></td><td>{escape(_type(document, field))}</td>"
            f"<td>{_text(' '.join(filter(None, meaning)))}</td></tr>\n"
        )


def _type(document: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """A type in words: `integer, 1 to 8`, `list of string`, `a or b`."""
    schema = _resolve(document, schema)
    options = schema.get("anyOf") or schema.get("oneOf")
    if options:
        names = [_type(document, option) for option in options if option.get("type") != "null"]
        return " or ".join(dict.fromkeys(names))
    if "enum" in schema:
        return " | ".join(str(value) for value in schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    name = str(schema.get("type", "any"))
    if name == "array":
        return f"list of {_type(document, schema.get('items', {}))}"
    low, above, high = schema.get("minimum"), schema.get("exclusiveMinimum"), schema.get("maximum")
    if above is not None:
        return f"{name}, above {above}" + (f" to {high}" if high is not None else "")
    if low is not None:
        return f"{name}, {low} to {high}" if high is not None else f"{name}, at least {low}"
    return name if high is None else f"{name}, at most {high}"


def _response(document: Mapping[str, Any], status: str, response: Mapping[str, Any]) -> str:
    examples = "".join(
        f"<p><code>{escape(media_type)}</code></p><pre>{escape(text, quote=False)}</pre>\n"
        for media_type, content in response.get("content", {}).items()
        for example in content["examples"].values()
        for value in [_resolve(document, example)["value"]]
        for text in [value.rstrip() if isinstance(value, str) else json.dumps(value, indent=2)]
    )
    name = "Any other status" if status == "default" else f"Status {escape(status)}"
    return f"<details><summary>{name}: {_text(response['description'])}</summary>\n{examples}</details>\n"


def _resolve(document: Mapping[str, Any], node: Mapping[str, Any]) -> Mapping[str, Any]:
    """`node`, or what its reference points to."""
    while "$ref" in node:
        target: Any = document
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        node = target
    return node


def _text(text: str) -> str:
    """Escaped, with what stands between backquotes as code."""
    pieces = escape(text).split("`")
    return "".join(f"<code>{piece}</code>" if place % 2 else piece for place, piece in enumerate(pieces))
