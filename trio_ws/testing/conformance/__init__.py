"""A conformance suite for clients of ``trio-ws.v1``, in any language.

The suite is a server. It consists of scenes, which are test cases. In each scene, the client under test
connects to the suite, which sends the server's packets and checks those of the client. A small program called
the driver controls the client: it receives instructions from the suite over another WebSocket and reports the
results. docs/protocol.md describes the instructions and reports.

``python -m trio_ws.testing.conformance COMMAND`` starts a driver and prints the verdicts. `run_conformance`
does the same from a program.
"""

from __future__ import annotations

from trio_ws.testing.conformance.stage import Stage, ViolationError
from trio_ws.testing.conformance.suite import SCENES, Scene, Verdict, run_conformance

__all__ = ["SCENES", "Scene", "Stage", "Verdict", "ViolationError", "run_conformance"]
