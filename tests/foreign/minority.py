#!/usr/bin/env python3
"""Asks a server that has just been cut off from the others for changes, and expects that it acknowledges none.

The server leads: the same is asked of it before the cut, and granted. Nothing is between the calls and the server: a client
that first looks at the map would find that it is cut off before it asks. The directories /before-the-cut and /cut-off must
be there; nothing may ever be in the latter.

usage: minority.py SERVICE HOST:PORT COMMAND...      (needs requirements.txt)
  SERVICE   directory, fileserver or lock
  COMMAND   cuts the server off from the others, not from here
"""

import collections
import subprocess
import sys
import time
import uuid

import grpc
from client import Server, expect, new_id, write_messages

# Longer than any lease: whoever went on in the belief to lead has stopped by then.
ASKED_SECONDS = 10
CALL_SECONDS = 3
PAUSE_SECONDS = 0.05
# So many paths are in groups of every server.
PATHS = 64


class Directory:
    """Makes directories."""

    name = "dfs.v1.Directory"

    def __init__(self, server):
        self.server = server
        self.namespace = server.service(self.name)

    def change(self, folder, attempt):
        path = f"{folder}/{attempt}-{uuid.uuid4().hex[:8]}"
        made = self.namespace.CreateDirectory(timeout=CALL_SECONDS, write_id=new_id(), path=path)
        return made.entry.path == path

    def look(self):
        self.namespace.GetEntry(timeout=CALL_SECONDS, path="/")


class FileServer:
    """Writes files of all groups down one stream; those that others lead are sent away, before the cut as after it."""

    name = "dfs.v1.FileServer"
    # Blobs never change, so that any server may give them out for ever.
    look = None

    def __init__(self, server):
        self.server = server
        self.files = server.service(self.name)

    def change(self, folder, attempt):
        messages = []
        for number in range(PATHS):
            path = f"{folder}/{attempt}-{number}-{uuid.uuid4().hex[:8]}"
            begin = {"path": path, "mode": 1, "precondition": {"if_version": 0}}
            messages += write_messages(new_id(), b"no", **begin)
        receipts, refusals = 0, collections.Counter()
        try:
            for answer in self.files.Write(*messages, timeout=CALL_SECONDS):
                receipts += answer.WhichOneof("result") == "receipt"
                refusals[answer.error.reason] += answer.WhichOneof("result") == "error"
        except grpc.RpcError as error:
            # Some may have been acknowledged before.
            refusals[error.code().name] += 1
        if receipts == 0:
            raise Refused("+".join(sorted(refusals)))
        return True


class Lock:
    """Grants locks to a session that it knows, lets go of one, and opens sessions."""

    name = "dfs.v1.Lock"

    def __init__(self, server):
        self.server = server
        self.locks = server.service(self.name)
        self.session = new_id()
        self.locks.OpenSession(timeout=CALL_SECONDS, session_id=self.session, ttl_ms=60_000, client="minority")

    def change(self, folder, attempt):
        kind = attempt % 2
        if kind == 1:
            session = new_id()
            opened = self.locks.OpenSession(timeout=CALL_SECONDS, session_id=session, ttl_ms=10_000, client="minority")
            return opened.session_id == session
        path = f"{folder}/{attempt}-{uuid.uuid4().hex[:8]}"
        events = self.locks.AcquireLock(timeout=CALL_SECONDS, session_id=self.session, path=path, mode=1, wait_ms=0)
        return any(event.WhichOneof("event") == "grant" for event in events)

    def look(self):
        self.locks.GetLock(timeout=CALL_SECONDS, path="/before-the-cut/0")


class Refused(Exception):
    """The server answered, and acknowledged nothing."""


def refusal(server, call):
    """How it was refused, or None if it was not."""
    try:
        return None if call() else "no answer"
    except Refused as refused:
        return str(refused)
    except grpc.RpcError as error:
        try:
            return server.reason(error)
        except AssertionError:
            # Told by the library, not by the server.
            return error.code().name


def main(service, address, *cut):
    kinds = {"directory": Directory, "fileserver": FileServer, "lock": Lock}
    server = Server(address)
    asked = kinds[service](server)
    for attempt in range(2):
        refused = refusal(server, lambda: asked.change("/before-the-cut", attempt))
        expect(refused is None, f"{address} grants nothing even before it is cut off: {refused}")

    subprocess.run(cut, check=True, stdin=subprocess.DEVNULL, timeout=60)
    began = time.monotonic()
    attempts, refusals = 0, collections.Counter()
    while time.monotonic() - began < ASKED_SECONDS:
        refused = refusal(server, lambda: asked.change("/cut-off", attempts))
        after = time.monotonic() - began
        expect(refused is not None, f"a change was acknowledged {after:.1f} s after the server was cut off")
        refusals[refused] += 1
        attempts += 1
        time.sleep(PAUSE_SECONDS)
    if asked.look:
        looked = refusal(server, lambda: asked.look() or True)
        expect(looked is not None, "what may be old by now was given out as if it were not")
        refusals[f"{looked} for a look"] += 1
    told = ", ".join(f"{count} x {reason}" for reason, count in refusals.most_common())
    print(f"{service}: {attempts} changes asked of it within {ASKED_SECONDS} s, none acknowledged: {told}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (AssertionError, grpc.RpcError, subprocess.SubprocessError) as failure:
        print(f"minority: {failure}", file=sys.stderr)
        sys.exit(1)
