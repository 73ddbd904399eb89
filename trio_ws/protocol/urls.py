"""URLs in errors and logs."""

from __future__ import annotations

import re

__all__ = ["masked"]

_scheme = re.compile(r"[a-zA-Z][-+.0-9a-zA-Z]*://").match
# What stands where a port should and is none may be a password whose host is missing.
_no_port = re.compile(r":(?!//)(?!\d{1,5}(?:[/?#]|$))[^/?#]*").sub


def masked(url: str) -> str:
    """A URL as it may be shown, whether or not it is one: without user, password and query.

    Everything up to the last ``@`` goes, since only a URL that is right tells where its user ends. Use it
    wherever a URL that somebody gave enters an error or a log.
    """
    found = _scheme(url)
    scheme = found[0] if found else ""
    place = url[len(scheme) :].rpartition("@")[2].partition("?")[0]
    if place.startswith("["):
        address, bracket, place = place.partition("]")
        return f"{scheme}{address}{bracket}{_no_port(':***', place)}"
    return f"{scheme}{_no_port(':***', place)}"
