"""Which of six algorithms cooperates best: on three compiled tasks, five seeds each, with equal numbers of steps."""

import marl

STEPS = 200_000

net = {"network": marl.MLP((128, 128), "relu"), "sharing": "type"}  # a speaker is no listener
on_policy = {  # 3,200 rows an update: smaller batches stay in local optima here (docs/benchmarks.md)
    "rollout": 25,
    "minibatches": 4,
    "epochs": 10,
    "lr": marl.Linear(1.5e-3, 3e-4),
    "gae_lambda": 0.9,
    "entropy": marl.Linear(0.01, 0.0),
    "normalize_values": True,
    **net,
}
values = {
    "lr": marl.Linear(1e-3, 5e-5),
    "learning_starts": 5_000,
    "buffer": 200_000,
    "exploration": marl.exploration.EpsilonGreedy(marl.Linear(1.0, 0.02, STEPS // 2)),
    **net,
}
actors = {"batch": 1_024, "updates_per_step": 1 / 50, "learning_starts": 5_000, "buffer": 200_000, **net}


def task(name: str, env: str, discount: float, **fields) -> marl.Scenario:
    """A task with settings for all six: the algorithms differ in nothing that they need not differ in."""
    few, many = {"num_envs": 16}, {"num_envs": 128}
    return marl.Scenario(
        name=name,
        env=env,
        agents=marl.mappo(discount=discount, **on_policy),
        **many,
        steps=STEPS,
        algorithms={
            "ippo": {"agents": marl.ippo(discount=discount, **on_policy), **many},
            "iql": {"agents": marl.iql(discount=discount, **values), **few},
            "vdn": {"agents": marl.vdn(discount=discount, **values), **few},
            "qmix": {"agents": marl.qmix(discount=discount, **values), **few},
            "maddpg": {"agents": marl.maddpg(discount=discount, **actors), **few},
        },
        **fields,
    )


spread = task("spread", "marl/spread-v0", 0.85)
speaker_listener = task("speaker_listener", "marl/speaker_listener-v0", 0.9)
foraging = task(
    "foraging",
    "marl/foraging-v0",
    0.92,
    env_kwargs={"size": 5},
    shaping=[marl.shaping.Scale(20.0)],  # a lift is worth a sixth, which new networks would not see
)

study = marl.Study(
    name="cooperative",
    about="IPPO, MAPPO, IQL, VDN, QMIX and MADDPG on three cooperative tasks",
    tasks=[spread, speaker_listener, foraging],
    algorithms=["ippo", "mappo", "iql", "vdn", "qmix", "maddpg"],
    seeds=5,
    steps=STEPS,
    evaluate_every=STEPS // 20,
    evaluate_episodes=64,
    episodes=200,
    references={
        "spread": marl.studies.Reference(random=-79.0, best=-25.0),
        "speaker_listener": marl.studies.Reference(random=-79.0, best=-12.0),
        "foraging": marl.studies.Reference(random=0.0, best=1.0),
    },
)
