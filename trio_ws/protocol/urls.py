"""URLs in errors and logs."""

from __future__ import annotations

import re

__all__ = ["masked"]

_scheme = re.compile(r"[a-zA-Z][-+.0-9a-zA-Z]*://").match
# An invalid port may be a password whose host is missing.
_no_port = re.compile(r":(?!//)(?!\d{1,5}(?:[/?#]|$))[^/?#]*").sub


def masked(url: str) -> str:
    """Return a URL, valid or not, as it may be shown: without user, password and query.

    Everything up to the last ``@`` is removed, since only in a valid URL it is clear where the user ends. Use
    it whenever a given URL appears in an error or a log.
    """
    found = _scheme(url)
    scheme = found[0] if found else ""
    place = url[len(scheme) :].rpartition("@")[2].partition("?")[0]
    if place.startswith("["):
        address, bracket, place = place.partition("]")
        return f"{scheme}{address}{bracket}{_no_port(':***', place)}"
    return f"{scheme}{_no_port(':***', place)}"
