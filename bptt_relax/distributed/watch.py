"""Knowing at once that a process of the run is gone, whichever it is, and ending with a sentence instead of waiting.

JAX's collectives wait for who will never come, and its agent ends the process with a page of trace as soon as the first
process is gone. So all processes hold a connection to the first one, on the address of the coordinator: it breaks when
a process dies and falls silent when a host does. The agents talk to JAX's coordinator through the same address, along a
relay that does not tell them.
"""

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable

from bptt_relax.outcomes import InputError

EVERY, PATIENCE = 5.0, 30.0
"""Seconds between two signs of life, and after which a silent process counts as gone."""

ARRIVAL = 300.0
"""Seconds within which all processes must have come."""

ADVICE = (
    "What was done since the last checkpoint is lost; start all processes again with --resume, another number of them "
    "will do"
)

EXIT_CODE = 5
"""Of a process that can't go on because another is gone (`outcomes.EXIT_CODES`: resources)."""


class Watch:
    """The connection of this process with the first one, or of the first one with all others.

    Args:
        address: host and port of the first process.
        count: of processes.
        index: of this one.
        before_end: called before the process is ended because another is gone.

    Attributes:
        coordinator: address, on this host, at which JAX finds its coordinator; in the first process where it makes it.

    Raises:
        InputError: the address can't be used, or not everybody came.
    """

    def __init__(self, address: str, count: int, index: int, before_end: Callable[[], None]):
        host, _, port = address.rpartition(":")
        self._first, self._count, self._index = (host, int(port)), count, index
        self._before_end = before_end
        self._links: dict[int, socket.socket] = {}
        self._ending, self._over = threading.Lock(), threading.Event()
        self._arrived = threading.Condition()
        if index == 0:
            self._coordinator = ("127.0.0.1", _free_port())
            self._server = self._listen_for_all(address)
            self._start(self._accept, self._welcome)
            self._wait_for_all()
        else:
            self._links[0] = self._connect(f"watch {index}", ARRIVAL)
            self._server = socket.create_server(("127.0.0.1", 0))
            self._coordinator = self._server.getsockname()
            self._start(self._accept, self._relay)
            self._start(self._follow, 0)
        self._start(self._send_signs)
        self.coordinator = "{}:{}".format(*self._coordinator)

    def close(self) -> None:
        """Leave in order: nobody is missed."""
        self._over.set()
        for link in self._links.values():
            with contextlib.suppress(OSError):
                link.sendall(b"bye\n")
                link.shutdown(socket.SHUT_WR)
        self._server.close()

    def give_up(self, error: Exception) -> None:
        """Say that this process ends, and why."""
        what = " ".join(str(error).split()) or type(error).__name__
        self._over.set()
        self._tell_all(f"lost process {self._index} of {self._count} ended: {what}\n".encode())

    def _listen_for_all(self, address: str) -> socket.socket:
        host, port = self._first
        loopback = host in ("127.0.0.1", "localhost")
        try:
            return socket.create_server(("127.0.0.1" if loopback else "", port), backlog=4 * self._count)
        except OSError as error:
            raise InputError(
                f"the first process can't listen on {address} ({error.strerror}); give another port "
                "with --distributed.coordinator"
            ) from error

    def _wait_for_all(self) -> None:
        with self._arrived:
            if self._arrived.wait_for(lambda: len(self._links) == self._count - 1, ARRIVAL):
                return
        self._server.close()
        missing = sorted(set(range(1, self._count)) - self._links.keys())
        raise InputError(
            f"of {self._count} processes {_listed(missing)} did not come within {ARRIVAL:.0f} s: start all of them, "
            "with the same --distributed.coordinator"
        )

    def _connect(self, what: str, patience: float) -> socket.socket:
        """A connection to the first process, which may not be there yet."""
        try:
            link = _reach(self._first, patience)
            link.sendall(f"{what}\n".encode())
            return link
        except OSError as error:
            raise InputError(
                f"process {self._index} of {self._count} finds no first process at {self._first[0]}:{self._first[1]} "
                f"({error.strerror or error}): start all processes, with the same --distributed.coordinator, reachable "
                "from every host"
            ) from error

    def _start(self, function: Callable[..., None], *arguments) -> None:
        # By this name run_program knows that nothing may wait for other processes at the end.
        threading.Thread(target=function, args=arguments, name="watch", daemon=True).start()

    def _accept(self, take: Callable[[socket.socket], None]) -> None:
        while True:
            try:
                link, _ = self._server.accept()
            except OSError:
                return  # closed
            self._start(take, link)

    def _welcome(self, link: socket.socket) -> None:
        """In the first process: a process of the run, or its agent on the way to the coordinator."""
        link.settimeout(PATIENCE)
        try:
            what, _, index = _line(link).partition(" ")
            if what == "relay":
                _pass_on(link, _reach(self._coordinator, ARRIVAL), close_both=True)
                return
            number = int(index)
        except (OSError, ValueError):
            link.close()  # somebody else
            return
        with self._arrived:
            self._links[number] = link
            self._arrived.notify_all()
        self._follow(number)

    def _relay(self, link: socket.socket) -> None:
        """In any other process: its agent on the way to the coordinator. It never learns that that is gone."""
        try:
            _pass_on(link, self._connect("relay", 0.0), close_both=False)
        except InputError:
            link.close()

    def _follow(self, index: int) -> None:
        """Wait for signs of life until there are none any more."""
        how = "its connection broke"
        with self._links[index] as link:
            link.settimeout(PATIENCE)
            try:
                while said := _line(link):
                    if said == "bye":
                        return
                    if said.startswith("lost "):
                        self._end(said.removeprefix("lost "))
            except TimeoutError:
                how = f"it was silent for {PATIENCE:.0f} s"
            except OSError:
                pass
            if not self._over.is_set():
                self._end(f"process {index} of {self._count} is gone: {how}. {ADVICE}")

    def _send_signs(self) -> None:
        while not self._over.wait(EVERY):
            self._tell_all(b"alive\n")

    def _tell_all(self, message: bytes) -> None:
        for link in list(self._links.values()):
            with contextlib.suppress(OSError):
                link.sendall(message)

    def _end(self, what: str) -> None:
        if not self._ending.acquire(blocking=False):
            threading.Event().wait()  # Another thread is at it.
        if self._index == 0:
            self._tell_all(f"lost {what}\n".encode())
        self._before_end()
        print(f"error: {what}", file=sys.__stderr__ or sys.stderr, flush=True)
        os._exit(EXIT_CODE)


def _reach(address: tuple[str, int], patience: float) -> socket.socket:
    """A connection to who may not listen yet."""
    until = time.monotonic() + patience
    while True:
        try:
            return socket.create_connection(address, timeout=PATIENCE)
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def _line(link: socket.socket) -> str:
    """The next line, byte by byte so that nothing after it is taken; empty at the end."""
    read = b""
    while not read.endswith(b"\n"):
        byte = link.recv(1)
        if not byte:
            return ""
        read += byte
    return read.decode().strip()


def _pass_on(near: socket.socket, far: socket.socket, *, close_both: bool) -> None:
    """Pass bytes both ways until an end is closed.

    Args:
        near: that asked.
        far: that answers.
        close_both: where the far end is closed, close the near one too.
    """
    near.settimeout(None)
    far.settimeout(None)

    def pump(source: socket.socket, target: socket.socket, close: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        if close:
            for link in (source, target):
                with contextlib.suppress(OSError):
                    link.shutdown(socket.SHUT_RDWR)

    back = threading.Thread(target=pump, args=(far, near, close_both), name="watch", daemon=True)
    back.start()
    pump(near, far, True)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def _listed(numbers: list[int]) -> str:
    few = ", ".join(map(str, numbers[:8]))
    return f"number {few}" + (f" and {len(numbers) - 8} more" if len(numbers) > 8 else "")
