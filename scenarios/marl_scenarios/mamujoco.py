"""HalfCheetah in two halves: one agent moves the hind leg, one the front leg (MaMuJoCo)."""

import marl

scenario = marl.Scenario(
    name="mamujoco",
    about="half a cheetah each: run with the hind and the front leg (MaMuJoCo 2x3, 2 agents, continuous, SAC)",
    env="gymnasium_robotics.mamujoco_v1",
    env_kwargs={"scenario": "HalfCheetah", "agent_conf": "2x3", "camera_name": "track"},
    agents=marl.isac(
        network=marl.MLP((128, 128), "relu"),
        lr=1e-3,
        batch=128,
        buffer=150_000,
        learning_starts=2_000,
        updates_per_step=0.25,
        discount=0.99,
        tau=0.005,
    ),
    num_envs=4,
    steps=120_000,
    expect="1,111, sum of two halves that earn the same (seed 0; random: -492)",
    extra="mujoco",
)
