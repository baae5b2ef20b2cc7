"""The project's own worlds: compiled, batched, and each also a plain PettingZoo ``ParallelEnv``.

Importing this package registers every world with PettingZoo: ``pettingzoo.make("parallel", "marl/spread-v0")``.
"""

from pettingzoo import register

from marl_envs.acrobot import Acrobot
from marl_envs.adversary import Adversary
from marl_envs.cartpole import CartPole
from marl_envs.catch import Catch
from marl_envs.crypto import Crypto
from marl_envs.foraging import Foraging
from marl_envs.gridworld import GridWorld, GridWorldImage
from marl_envs.growing_spread import GrowingSpread
from marl_envs.kuhn import Kuhn
from marl_envs.lever import Lever
from marl_envs.lewis import Lewis
from marl_envs.matrix_game import MatrixGame
from marl_envs.mountain_car import MountainCar, MountainCarContinuous
from marl_envs.pendulum import Pendulum
from marl_envs.predator_prey import PredatorPrey
from marl_envs.pursuit import Pursuit
from marl_envs.push import Push
from marl_envs.reach import Reach
from marl_envs.reference import Reference
from marl_envs.simple import Simple
from marl_envs.speaker_listener import SpeakerListener
from marl_envs.spread import Spread
from marl_envs.switch_riddle import SwitchRiddle
from marl_envs.t_maze import TMaze
from marl_envs.tag import Tag
from marl_envs.traffic_junction import TrafficJunction
from marl_envs.two_step import TwoStep
from marl_envs.world import Parameter, World
from marl_envs.world_comm import WorldComm

WORLDS: dict[str, type[World]] = {
    world.metadata["name"]: world
    for world in (
        Acrobot, Adversary, CartPole, Catch, Crypto, Foraging, GridWorld, GridWorldImage, GrowingSpread, Lever, Lewis,
        MatrixGame, MountainCar, MountainCarContinuous, Pendulum, PredatorPrey,
        Pursuit, Push, Reach, Reference, Simple, SpeakerListener, Spread, SwitchRiddle, Tag,
        TMaze, TrafficJunction, TwoStep, WorldComm,
    )
}  # fmt: skip

__all__ = [
    "WORLDS",
    "Acrobot",
    "Adversary",
    "CartPole",
    "Catch",
    "Crypto",
    "Foraging",
    "GridWorld",
    "GridWorldImage",
    "GrowingSpread",
    "Kuhn",
    "Lever",
    "Lewis",
    "MatrixGame",
    "MountainCar",
    "MountainCarContinuous",
    "Parameter",
    "Pendulum",
    "PredatorPrey",
    "Pursuit",
    "Push",
    "Reach",
    "Reference",
    "Simple",
    "SpeakerListener",
    "Spread",
    "SwitchRiddle",
    "TMaze",
    "Tag",
    "TrafficJunction",
    "TwoStep",
    "World",
    "WorldComm",
]

for _name, _world in WORLDS.items():
    register("parallel", "marl/" + "-".join(_name.rsplit("_", 1)), entry_point=_world)
register("aec", "marl/kuhn-v0", entry_point=Kuhn)
