"""What it costs a training run that somebody looks at it: pieces of one run, watched and not in turn.

``python -m tests.benchmarks.watched [ROUNDS]``: a run of 128 copies writes its folder; a viewer (``marl view``) of that
folder is there all the time; in every other piece a client in a process of its own asks it for news once a second, as
the page does. Both times of the trainer are told, the processor's and the clock's: the latter also has what the viewer
takes of a machine whose cores are all at work. The first pieces warm up and do not count.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import marl

COPIES, ROLLOUT, UPDATES, WARM = 128, 128, 8, 2
PIECE = COPIES * ROLLOUT * UPDATES  # steps
CLIENT = """
import sys, time, urllib.request
from pathlib import Path
address, flag = sys.argv[1], Path(sys.argv[2])
place, token = address.split("/?token=")
mark = ""
while True:
    if flag.exists():
        asked = {"Authorization": f"Bearer {token}", "If-None-Match": mark}
        try:
            request = urllib.request.Request(f"{place}/content", headers=asked)
            with urllib.request.urlopen(request, timeout=30) as answer:
                mark = answer.headers["etag"]
                answer.read()
        except urllib.error.HTTPError as error:
            assert error.code == 304
    time.sleep(1)
"""
VIEW = "import sys; from marl.cli import main; sys.exit(main())"


class Pieces(marl.callbacks.Callback):
    """Takes both times of every piece, and switches the client on and off between them."""

    def __init__(self, flag: Path) -> None:
        """``flag``: the file that switches the client on."""
        self.flag, self.times = flag, []  # [watched, processor seconds, seconds]
        self.before = (time.process_time(), time.perf_counter())

    def on_step(self, training) -> None:
        """Every so many steps the piece is over."""
        if not training.every(PIECE):
            return
        now = (time.process_time(), time.perf_counter())
        self.times.append((self.flag.exists(), now[0] - self.before[0], now[1] - self.before[1]))
        if self.flag.exists():
            self.flag.unlink()
        else:
            self.flag.touch()
        self.before = (time.process_time(), time.perf_counter())


def main(rounds: int) -> None:
    """Print medians and what watching costs."""
    learner = marl.ippo(rollout=ROLLOUT)
    with (
        tempfile.TemporaryDirectory() as folder,
        marl.MultiAgentSystem(learner, "marl/spread-v0", num_envs=COPIES, seed=0) as system,
    ):
        run, flag = Path(folder) / "run", Path(folder) / "watched"
        system.train(steps=COPIES * ROLLOUT, run_dir=run)
        viewer = subprocess.Popen([sys.executable, "-c", VIEW, "view", str(run), "--json"], stdout=subprocess.PIPE)
        client = None
        try:
            address = json.loads(viewer.stdout.readline())["url"]
            client = subprocess.Popen([sys.executable, "-c", CLIENT, address, str(flag)])
            pieces = Pieces(flag)
            system.train(steps=PIECE * (WARM + 2 * rounds), run_dir=run, callbacks=[pieces], log_every=COPIES * ROLLOUT)
            assert client.poll() is None, "the client ended"
        finally:
            for process in filter(None, (client, viewer)):
                process.kill()
                process.wait()
    counted = pieces.times[WARM:]
    for name, place in (("processor time", 1), ("clock", 2)):
        found = {on: statistics.median(PIECE / one[place] for one in counted if one[0] is on) for on in (False, True)}
        pairs = [
            counted[n + (1 if counted[n][0] else 0)][place] / counted[n + (0 if counted[n][0] else 1)][place]
            for n in range(0, len(counted) - 1, 2)
        ]
        print(
            f"{name}: {found[False]:,.0f} steps/s alone, {found[True]:,.0f} watched, ratio of medians "
            f"{found[True] / found[False]:.3f}; of pairs {', '.join(f'{one:.3f}' for one in sorted(pairs))}"
        )
    print(f"{len(counted)} pieces of {PIECE:,} steps; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
