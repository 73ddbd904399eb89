"""A pytest plugin that removes features from trio_ws that some systems lack.

It is used as TRIO_WS_TEST_WITHOUT="AF_UNIX,epoll". trio and the standard library keep all features. The
modules of trio_ws import proxies of the real modules.
"""

from __future__ import annotations

import builtins
import importlib
import os
import socket
import types
from typing import Any

#: Features that can be removed, and their modules. Without a name, the module itself is removed.
NAMES: dict[str, tuple[tuple[str, str], ...]] = {
    "AF_UNIX": (("socket", "AF_UNIX"),),
    "SO_REUSEPORT": (("socket", "SO_REUSEPORT"),),
    "TCP_INFO": (("socket", "TCP_INFO"),),
    "sendmsg": (("socket.socket", "sendmsg"),),
    "epoll": (("select", "epoll"), ("select", "EPOLLIN")),
    "poll": (("select", "poll"), ("select", "POLLRDHUP")),
    "SIGHUP": (("signal", "SIGHUP"),),
    "fork": (("os", "fork"), ("os", "register_at_fork")),
    "affinity": (("os", "sched_getaffinity"),),
    "pass_fds": (("os", "name"),),
    "fcntl": (("sys", "platform"), ("fcntl", ""), ("termios", "")),
}
_REPLACED = {("os", "name"): "nt", ("sys", "platform"): "unknown"}

without = [name for name in os.environ.get("TRIO_WS_TEST_WITHOUT", "").split(",") if name]
_gone = {place for name in without for place in NAMES[name]}


class _WithoutSendmsg(type):
    def __getattribute__(cls, name: str) -> Any:
        if name == "sendmsg":
            raise AttributeError(name)
        return super().__getattribute__(name)

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, socket.socket)


def _proxy(name: str) -> types.ModuleType:
    real = importlib.import_module(name)
    proxy = types.ModuleType(name)
    kept = {key: value for key, value in vars(real).items() if (name, key) not in _gone}
    for (module, key), value in _REPLACED.items():
        if module == name and (module, key) in _gone:
            kept[key] = value
    vars(proxy).update(kept)
    if (f"{name}.socket", "sendmsg") in _gone:
        vars(proxy)["socket"] = _WithoutSendmsg("socket", (socket.socket,), {})
    return proxy


_proxies = {name: _proxy(name) for name in {module.partition(".")[0] for module, key in _gone if key}}
_missing = {module for module, key in _gone if not key}
_real_import = builtins.__import__


def _import(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
    importer = (globals or {}).get("__name__", "")
    if importer.partition(".")[0] == "trio_ws" and level == 0:
        if name in _missing:
            raise ModuleNotFoundError(f"No module named {name!r}")
        if name in _proxies:
            return _proxies[name]
    return _real_import(name, globals, locals, fromlist, level)


if without:
    builtins.__import__ = _import
