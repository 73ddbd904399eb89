"""The build: all is Python but for one small extension in C, which is built if that can be done.

Without a compiler, or without Python's headers, the package is complete all the same, and the build says in
one line that it does without. ``TRIO_WS_NO_EXTENSION=1`` keeps it from trying.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from setuptools import Distribution, Extension
from setuptools.command.build_ext import build_ext

FOLDER = "trio_ws/protocol"
NAME = f"_speedups{sysconfig.get_config_var('EXT_SUFFIX')}"


class ExtensionHook(BuildHookInterface):
    """Puts the extension into a wheel, or beside its source where the installation is an editable one."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        beside_source = Path(self.root, FOLDER, NAME)
        if version == "editable":
            # Never written over: a running program may have it open.
            beside_source.unlink(missing_ok=True)
        self._scratch = TemporaryDirectory()
        if os.environ.get("TRIO_WS_NO_EXTENSION", "0") not in ("", "0"):
            return
        built = compile_extension(Path(self.root), Path(self._scratch.name))
        if not built.exists():
            self.app.display_warning("trio_ws goes without its C extension: masks and frames in Python")
            return
        self.app.display_info(f"trio_ws has its C extension: {NAME}")
        if version == "editable":
            shutil.copy(built, beside_source)
        else:
            build_data["force_include"][str(built)] = f"{FOLDER}/{NAME}"
            # The wheel is for this platform and this Python alone now.
            build_data["pure_python"] = False
            build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        self._scratch.cleanup()


def compile_extension(root: Path, scratch: Path) -> Path:
    """Compile by setuptools, which knows the compilers; give the file that is there if this went well."""
    # At -O3 gcc makes vector instructions of the loop. Not every Python has that in its own flags.
    flags = [] if os.name == "nt" else ["-O3"]
    source = str(root / FOLDER / "_speedups.c")
    # Optional: what goes wrong is a line on stderr.
    extension = Extension("trio_ws.protocol._speedups", [source], extra_compile_args=flags, optional=True)
    command = build_ext(Distribution({"ext_modules": [extension]}))
    command.build_lib, command.build_temp = str(scratch), str(scratch / "temp")
    command.ensure_finalized()
    command.run()
    return scratch / FOLDER / NAME
