"""One thread that all probes live in.

A probe's state is touched by this thread alone: callers outside hand in a function (`call`) and wait for its result,
so no probe needs a lock. Reading is driven by the sockets, sending and sampling by tickers.
"""

from __future__ import annotations

import os
import selectors
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Self, TypeVar

T = TypeVar("T")

_CALL_LIMIT_SECONDS = 60.0  # no request of ours takes a second; a probe thread that hangs must not hang the run


class Ticker:
    """A function called every `period_seconds`; late calls are not made up for."""

    def __init__(self, period_seconds: float, function: Callable[[], None]) -> None:
        self.period_seconds = period_seconds
        self.function = function
        self.due = time.monotonic() + period_seconds


class ProbeLoop:
    """The probes' thread. `with ProbeLoop() as loop`, or `start()` and `stop()`."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._tickers: list[Ticker] = []
        self._requests: list[Callable[[], None]] = []
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(self._wake_read, selectors.EVENT_READ, self._serve_requests)
        self._stopping = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="probes", daemon=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread. Probes close their own sockets before."""
        if self._stopping:
            return
        self._stopping = True
        os.write(self._wake_write, b"x")
        if self._thread.ident is not None:
            self._thread.join(_CALL_LIMIT_SECONDS)
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def call(self, function: Callable[[], T]) -> T:
        """Run `function` in the probes' thread and return its result; its exception is raised here.

        A probe's own failure inside the thread is raised here too, at the next call: it is never lost.
        """
        future: Future[T] = Future()

        def serve() -> None:
            try:
                future.set_result(function())
            except BaseException as error:  # noqa: BLE001 - handed over to the caller's thread
                future.set_exception(error)

        if self._failure is not None:
            raise self._failure
        self._requests.append(serve)
        os.write(self._wake_write, b"x")
        while True:
            try:
                return future.result(timeout=1.0)
            except TimeoutError:
                if self._failure is not None:
                    raise self._failure from None
                if not self._thread.is_alive():
                    raise

    # --- for probes, inside the thread --------------------------------------------------------------------

    def add_reader(self, descriptor: int, function: Callable[[], None]) -> None:
        self._selector.register(descriptor, selectors.EVENT_READ, function)

    def add_writer(self, descriptor: int, function: Callable[[], None]) -> None:
        self._selector.register(descriptor, selectors.EVENT_WRITE, function)

    def forget(self, descriptor: int) -> None:
        self._selector.unregister(descriptor)

    def every(self, period_seconds: float, function: Callable[[], None]) -> Ticker:
        ticker = Ticker(period_seconds, function)
        self._tickers.append(ticker)
        return ticker

    def cancel(self, ticker: Ticker) -> None:
        self._tickers.remove(ticker)

    def _serve_requests(self) -> None:
        os.read(self._wake_read, 4096)
        requests, self._requests = self._requests, []
        for request in requests:
            request()

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._turn()
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread by call()
            self._failure = error

    def _turn(self) -> None:
        now = time.monotonic()
        wait = min((ticker.due for ticker in self._tickers), default=now + 1.0) - now
        for key, _ in self._selector.select(max(wait, 0.0)):
            key.data()
        now = time.monotonic()
        for ticker in tuple(self._tickers):
            if ticker.due <= now:
                ticker.due = max(ticker.due + ticker.period_seconds, now)
                ticker.function()
