"""A conformance suite for clients of ``trio-ws.v1``, in any language.

The suite is a server. For each scene the client under test connects to it, and the suite plays the server's
part packet by packet and judges what the client sends. A small program beside the client, its driver, makes
client do what a scene needs: it takes instructions over another WebSocket and reports what becomes of them.
docs/protocol.md says what instructions and reports there are.

``python -m trio_ws.testing.conformance COMMAND`` starts a driver and prints the verdicts. `run_conformance`
does the same in a program.
"""

from __future__ import annotations

from trio_ws.testing.conformance.stage import Stage, ViolationError
from trio_ws.testing.conformance.suite import SCENES, Scene, Verdict, run_conformance

__all__ = ["SCENES", "Scene", "Stage", "Verdict", "ViolationError", "run_conformance"]
