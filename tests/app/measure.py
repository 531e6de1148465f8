"""What the page costs: ``python -m tests.app.measure [--tabs 6] [--seconds 600]`` prints it, app/README.md keeps it.

A server of its own, a run of 10,000 steps that grows while it is watched, and as many browser tabs as asked for, all at
the place Train. CPU time and memory are the server process's own.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from pathlib import Path

import psutil
from playwright.sync_api import Browser, Page, sync_playwright

from app.live import SECONDS
from tests.app.conftest import FLAGS, Server, running
from trainer.config_io import config_from
from trainer.events import EventLog, MetricsLog, Phase, Started, StepMetrics
from trainer.run_dir import RunDir

STEPS = 10_000
# Since the navigation began, in milliseconds.
FIRST_PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
NOW = "performance.now()"
WATCH_LONG_TASKS = """() => {
  window.longTasks = [];
  new PerformanceObserver((list) => window.longTasks.push(...list.getEntries().map((e) => e.duration)))
    .observe({ type: 'longtask' });
}"""


def measure(chromium: str, tabs: int, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as folder, running(Path(folder) / "home") as server, sync_playwright() as driver:
        run = long_run(server.home)
        with run.hold():
            browser = driver.chromium.launch(executable_path=chromium, args=list(FLAGS))
            start = f"{server.url}/?place=train&run={run.id}"
            for name in ("cold", "warm"):  # the first visit compiles Gradio's templates
                paint, usable = opening(browser, start)
                print(f"{name}: first paint {paint:.0f} ms, usable {usable:.0f} ms")
            pages = [opened(browser, start) for _ in range(tabs)]
            watch(server, run, pages, seconds)


def long_run(home: Path) -> RunDir:
    """A run in the middle of its training, as the trainer writes it."""
    config = config_from({"preset": "starter-dora"}, [f"data.folder={home}", f"train.steps={STEPS}", "name=long"])
    run = RunDir.create(home / "runs", config)
    process = psutil.Process()
    events = EventLog(run.events_file)
    events.append(Started(steps=STEPS, pid=process.pid, create_time=process.create_time()))
    events.append(Phase(name="training"))
    with open(run.metrics_file, "wb") as file:
        file.writelines(row(step).model_dump_json().encode() + b"\n" for step in range(1, STEPS - 1000))
    return run


def row(step: int) -> StepMetrics:
    loss = 0.1 + 0.3 * math.exp(-step / 2000) + 0.02 * math.sin(step * 12.9898)
    return StepMetrics(step=step, loss=loss, seconds=0.25, learning_rates={"unet.down": 1e-4}, peak_mib=9000)


def opening(browser: Browser, url: str) -> tuple[float, float]:
    """Milliseconds to the first paint, and until the page shows what the disk says."""
    page = opened(browser, url)
    usable = float(page.evaluate(NOW))
    paint = float(page.evaluate(FIRST_PAINT))
    page.context.close()
    return paint, usable


def opened(browser: Browser, url: str) -> Page:
    page = browser.new_context().new_page()
    page.goto(url, wait_until="commit")
    page.wait_for_selector("#header [data-rev], #header[data-rev]", state="attached")
    return page


def watch(server: Server, run: RunDir, pages: list[Page], seconds: float) -> None:
    """Let the run grow for that long and print what its being watched costs."""
    assert server.process is not None
    process = psutil.Process(server.process.pid)
    metrics, step = MetricsLog(run.metrics_file), STEPS - 1000
    for page in pages:
        page.evaluate(WATCH_LONG_TASKS)
    before, memory = cpu_seconds(process), process.memory_info().rss
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        metrics.append(row(step))
        step += 1
        pages[0].wait_for_timeout(250)
    passed = time.monotonic() - began
    ticks = passed / SECONDS * len(pages)
    longest = max((float(page.evaluate("Math.max(0, ...window.longTasks)")) for page in pages), default=0.0)
    print(f"{len(pages)} tabs for {passed:.0f} s, about {ticks:.0f} ticks")
    print(f"server: {(cpu_seconds(process) - before) / ticks * 1000:.1f} ms CPU a tick")
    print(f"server: {memory / 2**20:.0f} MiB before, {process.memory_info().rss / 2**20:.0f} MiB after")
    print(f"browser: longest task {longest:.0f} ms")


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tabs", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    options = parser.parse_args()
    measure(options.chromium, options.tabs, options.seconds)
