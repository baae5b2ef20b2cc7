"""Names for writing your own value of an axis: the protocols of all axes, and what the library's own values use."""

from __future__ import annotations

from marl.lazy import attach, homes

# Where each public name lives. Names are imported when first used. Type checkers read ``extend.pyi``.
_HOMES = {
    "marl.action_critic": "ActionCritic",
    "marl.actor_critic": "Batch",
    "marl.auxiliary": "Auxiliary AuxiliaryLoss Rows",
    "marl.channels.link_simulator": "Inbox",
    "marl.channels.speech": "Channel MessageModule",
    "marl.config": "config setting",
    "marl.curriculum.rules": "TaskOutcome",
    "marl.curriculum.scheduler": "Curriculum Scheduler",
    "marl.curriculum.tasks": "Range",
    "marl.exploration": "Exploration Explorer ExplorationInput",
    "marl.grid.credit": "Credit OwnOutcome StepOutcome TeamOutcome",
    "marl.grid.critics": "CriticContext CriticNet Estimating Estimator ValueEstimator",
    "marl.grid.mixers": "Choices Mixer MixerContext Mixing TeamMixer TeamValues TrackedMixer mixer_scope",
    "marl.grid.scope": "Scope as_joint",
    "marl.grid.sharing": "Sharing",
    "marl.learners.a2c": "A2CLearner",
    "marl.learners.base": "Learner LearnerConfig",
    "marl.learners.ddpg": "DDPGLearner",
    "marl.learners.dqn": "DQNLearner",
    "marl.learners.off_policy": "OffPolicy OffPolicyLearner at_successors",
    "marl.learners.on_policy": "OnPolicy OnPolicyLearner",
    "marl.learners.ppo": "PPOLearner",
    "marl.learners.sac": "SACLearner",
    "marl.learners.td3": "TD3Learner",
    "marl.logs": "LoggedRun Logger Sink",
    "marl.memory.base": (
        "Collector Decision DrawSpec PolicyInput Memory MemoryChoice MemoryContext RecordsOthers Source"
    ),
    "marl.memory.replay": "Replay ReplayMemory",
    "marl.memory.sample": "Sample td_target",
    "marl.nets.distributions": "Categorical Distribution mask_logits",
    "marl.nets.agent_net": "AgentNet JointNet",
    "marl.nets.networks": "Body Inputs Network",
    "marl.nets.owner": "Owner weights_of",
    "marl.nets.stacked": "FlatParameters StackedLinear make_linear",
    "marl.optim": "Optimizer Rule Stepper",
    "marl.reduce": "Reduce",
    "marl.registry": "register",
    "marl.schedules": "Clock Schedule value_at",
    "marl.shaping.hook": "Hook Needs HookContext Stateful TeamTransition Shaping",
    "marl.stopping": "Stop",
    "marl.topology": "Topology Adjacency",
    "marl.training.part": "Choice Part Transition",
    "marl.types": "ActionSpec BatchEnv ObsSpec Spec Step TeamSpec TeamStep",
}

__getattr__, __dir__, __all__ = attach(__name__, homes(_HOMES), globals())
