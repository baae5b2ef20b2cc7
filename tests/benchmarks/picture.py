"""A GIF of an episode by random play beside the same episode by a trained team, small enough for a front page.

marl train spread_native --run-dir runs/spread
python -m tests.benchmarks.picture runs/spread --env mpe2.simple_spread_v3 docs/img/team.gif
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from PIL import Image

import marl

SIZE, GAP, COLORS = 260, 12, 32  # pixels of a side, pixels between the sides
REST = 8  # how often the last frame of an episode is shown


def episode(system: marl.MultiAgentSystem, seed: int, greedy: bool) -> list[Image.Image]:
    """The frames of one episode."""
    played = system.render_episode(seed, greedy=greedy)
    frames = [Image.fromarray(frame).resize((SIZE, SIZE), Image.Resampling.LANCZOS) for frame in played.frames]
    print(f"seed {seed}: return {sum(played.returns.values()):.1f}")
    return frames


def beside(left: Image.Image, right: Image.Image) -> Image.Image:
    """Both pictures in one."""
    whole = Image.new("RGB", (2 * SIZE + GAP, SIZE), "lightgrey")
    whole.paste(left, (0, 0))
    whole.paste(right, (SIZE + GAP, 0))
    return whole


def main() -> None:
    """Play and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("out", type=Path, help="where to write the GIF")
    parser.add_argument("--env", help="another environment with the same agents")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="an episode each")
    asked = parser.parse_args()
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pictures, no windows
    trained = marl.MultiAgentSystem.load(asked.run / "checkpoints" / "best", env=asked.env)
    random = marl.MultiAgentSystem(marl.Random(), asked.env or trained.scenario or trained.spec.env)
    frames: list[Image.Image] = []
    for seed in asked.seeds:
        pair = zip(episode(random, seed, greedy=False), episode(trained, seed, greedy=True), strict=False)
        both = [beside(left, right) for left, right in pair]
        frames += both + both[-1:] * REST
    palette = beside(frames[0].resize((SIZE, SIZE)), frames[-1].resize((SIZE, SIZE))).quantize(COLORS)
    small = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    small[0].save(asked.out, save_all=True, append_images=small[1:], duration=110, loop=0, optimize=True)
    print(f"wrote {asked.out}: {len(small)} frames, {asked.out.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
