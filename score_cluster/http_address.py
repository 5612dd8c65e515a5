"""Addresses of judges: what may stand in a recipe, and how one is named without what may be secret in it."""

from urllib.parse import urlsplit


def shown(url: str) -> str:
    """Scheme, host, port and path; neither user and password nor the query, which often holds a key."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port is not None else ""
    except ValueError:
        return "(an address that cannot be read)"
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{port}{parts.path}"


def url_problem(url: str) -> str | None:
    """`reason; remedy`, or None for a good one."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 (reading it checks it)
    except ValueError as error:
        return f"not an address ({error}); write http://host:port/path or https://…"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return "not an address of a service; write http://host:port/path or https://…"
    if parts.username is not None or parts.password is not None:
        return "holds a user or a password, and recipes are kept and shown; use token_variable or token_file"
    if parts.query or parts.fragment:
        return "holds a query or a fragment, where keys are put, and recipes are kept and shown; use token_variable or token_file"
    if not url.isascii() or any(character.isspace() or not character.isprintable() for character in url):
        return "holds characters that no address has; write them as %XX"
    return None
