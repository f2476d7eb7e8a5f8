"""What the demo shows while it runs: steps done, the step at work, and live figures."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text


@dataclass
class _Step:
    title: str
    began: float
    ended: float | None = None
    note: str = ""


@dataclass
class View:
    """Steps and figures on the terminal's standard error; plain lines where it is no terminal."""

    console: Console = field(default_factory=lambda: Console(stderr=True))
    figures: dict[str, str] = field(default_factory=dict)
    alerts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Nothing is drawn before `showing`."""
        self._steps: list[_Step] = []
        self._began = time.monotonic()
        self._lock = threading.Lock()

    @contextmanager
    def showing(self) -> Iterator[None]:
        """Draw until the end of the block."""
        if not self.console.is_terminal:
            yield
            return
        with Live(get_renderable=self._draw, console=self.console, refresh_per_second=4):
            yield

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """One step of the job, timed."""
        step = _Step(title, time.monotonic())
        with self._lock:
            self._steps.append(step)
        if not self.console.is_terminal:
            self.console.print(f"[{step.began - self._began:5.0f} s] {title}", highlight=False)
        yield
        step.ended = time.monotonic()

    def note(self, text: str) -> None:
        """What the step at work is doing just now."""
        with self._lock:
            changed = bool(self._steps) and self._steps[-1].note != text
            if changed:
                self._steps[-1].note = text
        if changed and not self.console.is_terminal:
            self.console.print(f"           {text}", highlight=False)

    def alert(self, text: str) -> None:
        """Something the on-call engineer would see."""
        self.alerts.append(text)
        if not self.console.is_terminal:
            self.console.print(f"           ! {text}", highlight=False)

    def _draw(self) -> Panel:
        steps = Table.grid(padding=(0, 1))
        with self._lock:
            for step in self._steps:
                seconds = (step.ended or time.monotonic()) - step.began
                done = step.ended is not None
                steps.add_row(
                    Text("✓", "green") if done else Spinner("dots"),
                    Text(step.title, "dim" if done else "bold"),
                    Text(f"{seconds:4.0f} s", "dim"),
                    Text("" if done else step.note, "cyan"),
                )
        figures = Table.grid(padding=(0, 3))
        if self.figures:
            figures.add_row(*(Text(name, "dim") for name in self.figures))
            figures.add_row(*(Text(value, "bold") for value in self.figures.values()))
        alerts = [Text(f"▲ {line}", "bold red") for line in self.alerts[-5:]]
        return Panel(
            Group(steps, Text(""), figures, *alerts),
            title="Penstock demo",
            subtitle=f"{time.monotonic() - self._began:.0f} s",
        )
