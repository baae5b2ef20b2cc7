"""What one action costs: the runtime by numpy and by onnxruntime, an agent of a system, and torch alone.

    python -m tests.benchmarks.deploy
    python -m tests.benchmarks.deploy --smaller spread cartpole pendulum --runs runs/deploy

Batch 1, one thread, wall-clock microseconds: the median and the 99th percentile over calls, contenders in turns. Then
the processor time that importing the runtime takes, and how much memory it adds to Python with numpy.

With --smaller: tasks are trained, or runs that are there are taken, and a row says for each bundle what it keeps of the
return.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from marl_scenarios import cartpole, pendulum, spread_native

import marl
import marl_runtime
from marl import parallel

NETWORKS = {"MLP 64-64": marl.MLP((64, 64)), "MLP 256-256": marl.MLP((256, 256)), "GRU 64": marl.GRU(64)}
MEMORY = (
    "print(next(int(line.split()[1]) / 1024 for line in open('/proc/self/status') if line[:5] == 'VmHWM'))"  # Linux
)


def contenders(network: Any, folder: Path) -> tuple[dict[str, Callable[[Any], Any]], Any]:
    """Functions of an observation, and one observation."""
    system = marl.MultiAgentSystem(marl.ippo(network=network, sequence=16), "marl/spread-v0", num_envs=1, seed=0)
    observation = system.make_env().reset(seed=0)[0]["agent_0"]
    graphs = importlib.util.find_spec("onnx") is not None and importlib.util.find_spec("onnxruntime") is not None
    system.export(folder, format="onnx" if graphs else "numpy")
    agent = system.agent("agent_0")
    found: dict[str, Callable[[Any], Any]] = {"runtime, numpy": marl_runtime.load(folder)["agent_0"].act}
    if graphs:
        found["runtime, onnxruntime"] = marl_runtime.load(folder, "onnx")["agent_0"].act
    found["Agent.act"] = agent.act
    net, head, carry = agent.net, agent.distribution, torch.zeros(1, 1, agent.net.carry_shape[1])
    still = torch.zeros(1, 1, dtype=torch.bool), torch.ones(1, 1, 1, dtype=torch.bool)

    @torch.inference_mode()
    def eager(row: Any) -> int:
        outputs, _ = net(torch.from_numpy(row).view(1, 1, 1, -1), carry, *still)
        return int(head.mode(outputs, None))

    found["torch, eager"] = eager
    return found, observation


def cost(name: str, calls: int) -> dict[str, tuple[float, float]]:
    """Microseconds of an action: the median and the 99th percentile, by contender."""
    with tempfile.TemporaryDirectory() as folder:
        found, observation = contenders(NETWORKS[name], Path(folder) / "bundle")
        times: dict[str, list[int]] = {each: [] for each in found}
        for turn in range(11):  # the first one warms up
            for each, act in found.items():
                for _ in range(max(1, calls // 10)):
                    began = time.perf_counter_ns()
                    act(observation)
                    times[each].append(time.perf_counter_ns() - began)
            if turn == 0:
                times = {each: [] for each in found}
    quantiles = {each: np.quantile(np.array(taken) / 1e3, [0.5, 0.99]) for each, taken in times.items()}
    return {each: (float(middle), float(late)) for each, (middle, late) in quantiles.items()}


def started(code: str) -> tuple[float, float]:
    """Processor seconds of the code in a fresh interpreter, and the memory of the process in MB."""
    program = f"import time; began = time.process_time(); {code}; print(time.process_time() - began); {MEMORY}"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    return float(said[0]), float(said[1])


# --- what smaller bundles keep ----------------------------------------------------------------------------------------

TASKS = {  # what is trained, for how long, and a student of at most an eighth of the parameters
    "spread": (spread_native.scenario, 300_000, marl.MLP((37, 37))),
    "cartpole": (replace(cartpole.scenario, env="marl/cartpole-v0", algorithms={}), 100_000, marl.MLP((16, 16))),
    "pendulum": (replace(pendulum.scenario, env="marl/pendulum-v0", algorithms={}), 200_000, marl.MLP((16, 16))),
}


BUNDLES = ("float32", "int8", "fp16", "distilled", "pruned")


def smaller(task: str, runs: Path, episodes: int, bundles: Sequence[str]) -> None:
    """Print a row for each bundle of one task: paired episodes with the trained team, and what is lost of the gap."""
    scenario, steps, student = TASKS[task]
    system = marl.MultiAgentSystem(None, scenario, seed=1)
    system.train(steps=steps, run_dir=runs / task, resume=True)
    numbers, whole = parameters(system, None), weights(system)
    for name in bundles:
        began = time.process_time()
        students = None
        if name == "distilled":
            students = marl.deploy.distill(system, student)
        elif name == "pruned":
            students = marl.deploy.prune(system, 0.5)
        taken = time.process_time() - began
        quantize = name if name in ("int8", "fp16") else None
        with tempfile.TemporaryDirectory() as folder:
            out = system.export(Path(folder) / "bundle", quantize=quantize, students=students)
            found = marl.deploy.verify(out, system, states=2_000, episodes=episodes, calls=200, seed=7, processes=False)
        gap = found.trained.mean - found.random.mean
        low, high = -found.change.high / gap, -found.change.low / gap
        print(
            f"| {task} | {name} | {parameters(system, students) / numbers:.3f} | "
            f"{weights(system, quantize=quantize, students=students) / whole:.3f} | {taken:.0f} | "
            f"{found.exported.mean:.2f} ({found.exported.low:.2f} to {found.exported.high:.2f}) | "
            f"{100 * found.drop:z.2f} ({100 * low:z.2f} to {100 * high:z.2f}) | {100 * found.agreement:.2f} |",
            flush=True,
        )
        random = found.random.mean
    print(f"| {task} | random | | | | {random:.2f} | | |", flush=True)


def weights(system: Any, **how: Any) -> int:
    """Bytes of the weights of a bundle."""
    with tempfile.TemporaryDirectory() as folder:
        out = system.export(Path(folder) / "bundle", **how)
        return sum(path.stat().st_size for path in out.glob("*.safetensors"))


def parameters(system: Any, students: Any) -> int:
    """Numbers of the policies of a system, or of students in their place."""
    nets = [learner.policy_net for learner in system.learners] if students is None else students.values()
    return sum(one.numel() for net in nets for one in net.parameters())


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    about = (__doc__ or "").split(":")[0]
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.deploy", description=about)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--smaller", nargs="+", choices=list(TASKS), default=[], metavar="TASK")
    parser.add_argument("--runs", type=Path, default=Path("runs/deploy"))
    parser.add_argument("--bundles", nargs="+", choices=BUNDLES, default=BUNDLES, help="with --smaller")
    parser.add_argument("--episodes", type=int, default=200, help="with --smaller")
    options = parser.parse_args(arguments)
    parallel.set_threads(1)
    if options.smaller:
        print("| task | bundle | parameters | bytes | s | return | lost, % of the gap | equal actions, % |")
        print("|---|---|---|---|---|---|---|---|")
        for task in options.smaller:
            smaller(task, options.runs, options.episodes, options.bundles)
        return
    print("| network | contender | median, us | 99th percentile, us |")
    print("|---|---|---|---|")
    for name in options.networks:
        for each, (middle, late) in cost(name, options.calls).items():
            print(f"| {name} | {each} | {middle:.1f} | {late:.1f} |", flush=True)
    (seconds, memory), (_, bare) = started("import numpy, marl_runtime"), started("import numpy")
    own, _ = started("import numpy; began = time.process_time(); import marl_runtime")
    print(f"\nimporting marl_runtime: {own:.3f} s beside numpy, {seconds:.3f} s with it, {memory - bare:.1f} MB more")


if __name__ == "__main__":
    main()
