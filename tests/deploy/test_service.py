"""One agent as a service: it acts as the runtime does, whoever else asks whatever else."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch

import marl
import marl_runtime
from marl_runtime.seat import AgentInput, LocalPlayer, ReceivedMessages
from marl_runtime.service.limits import Limits
from marl_runtime.service.links import SenderLimits
from marl_runtime.service.listening import bound, service_of
from marl_runtime.service.mailbox import AHEAD, Mailbox
from marl_runtime.service.sessions import Session
from marl_runtime.wire import READY, Kind, packed, unpacked
from tests.support.policies import VECTOR, rows, system_of
from tests.support.service import Client, ask, request, serving

websockets = pytest.importorskip("websockets.asyncio.client")
H11Protocol = pytest.importorskip("uvicorn.protocols.http.h11_impl").H11Protocol

ON = {"rollout": 8, "minibatches": 1}
TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Bundles by name: one that remembers, and those that talk before or within a step."""
    ring = marl.topology.Ring()
    learners = {
        "gru": marl.PPO(network=marl.GRU(8), sequence=4, **ON),
        "before": marl.PPO(channel=marl.CommNet(size=4, topology=ring), **ON),
        "within": marl.PPO(channel=marl.CommNet(size=4, rounds=2, topology=ring), **ON),
        "delayed": marl.PPO(channel=marl.CommNet(size=4, topology=ring, link=marl.Link(delay=1, bits=2)), **ON),
    }
    found = {}
    for name, learner in learners.items():
        system = system_of(learner)
        for one in system.learners:
            with torch.no_grad():
                one.policy_net.head.weight.mul_(30)  # a new policy's outputs are all but equal
        found[name] = system.export(tmp_path_factory.mktemp("bundles") / name)
    return found


@pytest.fixture
def team(exported):
    return marl_runtime.load(exported["gru"])


def seen(count):
    return [row.tolist() for row in rows(VECTOR, count)]


# --- it acts as the runtime does --------------------------------------------------------------------------------------


def test_episodes_over_http_have_the_runtimes_actions_and_a_memory_each(team):
    rows = seen(40)

    async def play():
        async with serving(service_of(team, "b")) as port, Client(port) as client:
            names = [(await client.ask("/reset", {"seed": 3}))[1]["session"] for _ in range(2)]
            found = [[], []]
            for step in range(20):
                for n, name in enumerate(names):
                    asked = {"session": name, "observation": rows[2 * step + n], "explore": n == 1}
                    status, said = await client.ask("/act", asked)
                    assert (status, said["said"]) == (200, None)
                    found[n].append(said["action"])
            return found

    expected = []
    for n in range(2):
        agent = team["b"].twin(3)
        expected.append([agent.act(np.array(row, np.float32), explore=n == 1) for row in rows[n::2]])
    assert asyncio.run(play()) == expected


def test_masks_are_obeyed_and_actions_that_do_not_fit_are_refused(team):
    async def play():
        async with serving(service_of(team, "a")) as port, Client(port) as client:
            session = (await client.ask("/reset", {}))[1]["session"]
            asked = {"session": session, "observation": seen(1)[0], "action_mask": [0, 0, 1, 0]}
            assert await client.ask("/act", asked) == (200, {"action": 2, "said": None})
            status, said = await client.ask("/act", {**asked, "action_mask": [0, 0, 0, 0]})
            assert status == 422
            assert "a legal action" in said["error"]

    asyncio.run(play())


def frames_of(agent, copies, steps, rounds):
    """What a hub sends to an agent of three in some copies of an environment, random."""
    random = np.random.default_rng(5)

    def inbox():
        return [random.normal(size=(copies, 3, agent.size)), (random.random((copies, 3)) < 0.5).astype(float)]

    looks, heards = [], []
    for step in range(steps):
        flags = [np.full(copies, step == 0), np.ones(copies, bool)]
        look = [*flags, random.normal(size=(copies, 5)), np.ones((copies, 4), bool)]
        look = look if agent.layout(copies).masked else look[:-1]
        looks.append(look + (inbox() if agent.talks and not rounds else []))
        heards.append([inbox() for _ in range(rounds)])
    return looks, heards


@pytest.mark.parametrize(("name", "rounds"), [("gru", 0), ("before", 0), ("within", 2)])
def test_frames_of_32_copies_have_the_actions_that_a_process_of_the_agent_has(name, rounds, exported):
    agent, copies = marl_runtime.load(exported[name])["b"], 32
    layout, seeds = agent.layout(copies), np.arange(copies)
    looks, heards = frames_of(agent, copies, 5, rounds)

    async def play():
        found = []
        async with (
            serving(service_of(marl_runtime.load(exported[name]), "b")) as port,
            websockets.connect(f"ws://127.0.0.1:{port}/play", compression=None) as talk,
        ):

            async def receive(kind, fields):
                return unpacked(await talk.recv(), kind, fields, copies)

            await talk.send(packed(Kind.BEGIN, copies, layout.begin, [seeds, np.array(True)]))
            (sizes,) = await receive(Kind.READY, READY)
            assert sizes.tolist() == layout.sizes.tolist()
            for look, heard in zip(looks, heards, strict=True):
                await talk.send(packed(Kind.LOOK, copies, layout.observe, look))
                for inbox in heard:
                    found += await receive(Kind.SAY, layout.say)
                    await talk.send(packed(Kind.HEAR, copies, layout.hear, inbox))
                found += await receive(Kind.SAY, layout.say) if layout.talks and not rounds else []
                found += await receive(Kind.ACT, layout.act)
            await talk.send(packed(Kind.END, copies, [], []))
            await talk.wait_closed()
            assert talk.close_code == 1000
        return found

    player, expected = LocalPlayer([agent.twin(int(seed)) for seed in seeds], explore=True), []

    def single(arrays):
        return [np.asarray(array, np.float32) for array in arrays]

    for look, heard in zip(looks, heards, strict=True):
        rest = look[3:]
        mask = rest.pop(0) if layout.masked else None
        inbox = ReceivedMessages(*single(rest)) if rest else None
        player.observe(AgentInput(np.asarray(look[2], np.float32), mask, look[0], look[1], inbox))
        for told in heard:
            expected += player.say()
            player.hear(ReceivedMessages(*single(told)))
        expected += player.say() if layout.talks and not rounds else []
        expected.append(player.act())
    for wanted, got in zip(expected, asyncio.run(play()), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_a_conversation_in_json_has_the_actions_of_the_runtime(exported):
    team, rows = marl_runtime.load(exported["within"]), seen(10)

    async def play():
        found = []
        async with (
            serving(service_of(team, "a")) as port,
            websockets.connect(f"ws://127.0.0.1:{port}/play", compression=None) as talk,
        ):

            async def tell(**asked):
                await talk.send(json.dumps(asked))
                return json.loads(await talk.recv())

            assert await tell(do="reset", seed=1) == {"ready": True}
            for row in rows:
                answer = await tell(do="act", observation=row)
                while "action" not in answer:
                    found.append(answer["said"])
                    answer = await tell(do="hear", heard={"b": [1, 2, 3, 4], "c": None})
                found.append(answer["action"])
        return found

    agent, expected = team["a"].twin(1), []
    heard = agent.inbox({"b": [1, 2, 3, 4]})
    for row in rows:
        turn = agent.conversation(np.array(row, np.float32), None, False, None)
        try:
            message = next(turn)
            while True:
                expected.append(message[0].tolist())
                message = turn.send(heard)
        except StopIteration as end:
            expected.append(int(end.value))
    assert asyncio.run(play()) == expected


# --- agents on different hosts ----------------------------------------------------------------------------------------


def linked(exported, name, token=None, deadline=20.0, leave_out=(), **limits):
    """Services of a team that know each other, and their listeners; those that are left out listen and never answer."""
    listeners = {agent: bound("127.0.0.1", 0, None) for agent in "abc"}
    urls = {agent: f"http://127.0.0.1:{one.getsockname()[1]}" for agent, one in listeners.items()}
    found = {}
    for agent in "abc":
        if agent in leave_out:
            listeners[agent].close()
            continue
        others = {other: url for other, url in urls.items() if other != agent}
        team = marl_runtime.load(exported[name])
        limit = Limits(deadline=deadline, **limits)
        found[agent] = service_of(team, agent, token=token, peers=others, limits=limit), listeners[agent]
    return found


async def played(services, rows, steps, game=7):
    """Actions of the agents by step; each has a client that knows nothing of the others."""
    async with contextlib.AsyncExitStack() as stack:
        ports = {name: await stack.enter_async_context(serving(*one)) for name, one in services.items()}

        async def one(place, name):
            async with Client(ports[name]) as client:
                session = (await client.ask("/reset", {"game": game}))[1]["session"]
                actions = []
                for step in range(steps):
                    asked = {"session": session, "observation": rows[3 * step + place]}
                    status, said = await client.ask("/act", asked)
                    assert status == 200, said
                    actions.append(said["action"])
                await client.ask("/close", {"session": session})
                return actions

        return dict(zip(ports, await asyncio.gather(*map(one, range(3), ports)), strict=True))


@pytest.mark.parametrize("name", ["before", "within"])
def test_agents_on_different_hosts_play_as_the_team_in_one_process(name, exported):
    rows, steps = seen(30), 10
    services = linked(exported, name)
    found = asyncio.run(played(services, rows, steps))
    team = marl_runtime.load(exported[name])
    expected = {agent: [] for agent in team}
    for step in range(steps):
        given = {agent: np.array(rows[3 * step + n], np.float32) for n, agent in enumerate(team)}
        for agent, action in team.act(given).items():
            expected[agent].append(action)
    assert found == expected
    assert all(service.metrics.messages["lost"] == 0 for service, _ in services.values())
    assert all(service.metrics.messages["heard"] > 0 for service, _ in services.values())


def test_links_delay_and_round_messages_as_in_decentralized_evaluation(exported):
    rows, steps = seen(30), 10
    found = asyncio.run(played(linked(exported, "delayed"), rows, steps))
    channel = marl.CommNet(size=4, topology=marl.topology.Ring(), link=marl.Link(delay=1, bits=2))
    team = marl_runtime.load(exported["delayed"])
    said, expected = [], {agent: [] for agent in team}
    for step in range(steps):
        heard = said[step - 2] if step >= 2 else {}
        now = {}
        for n, (name, agent) in enumerate(team.items()):
            agent.hear({other: message for other, message in heard.items() if other != name})
            expected[name].append(agent.act(np.array(rows[3 * step + n], np.float32)))
            now[name] = channel.link.pack(torch.from_numpy(agent.said)).numpy()
        said.append(now)
    assert found == expected


def test_messages_that_do_not_come_before_the_deadline_are_lost(exported):
    rows = seen(12)
    services = linked(exported, "before", deadline=0.01, leave_out="c")
    (one, listener), _ = services["a"], services.pop("b")[1].close()

    async def play():
        async with serving(one, listener) as port, Client(port) as client:
            session = (await client.ask("/reset", {"game": 1}))[1]["session"]
            answers = [await client.ask("/act", {"session": session, "observation": row}) for row in rows]
            assert (await client.ask("/reset", {"game": 1}))[0] == 409
            return [said["action"] for _, said in answers]

    alone = marl_runtime.load(exported["before"])["a"]
    assert asyncio.run(play()) == [alone.act(np.array(row, np.float32)) for row in rows]
    assert one.metrics.messages["lost"] == 2 * 11  # of two speakers, in every step but the first


def test_what_comes_late_or_from_far_ahead_is_not_kept():
    async def play():
        box = Mailbox(["b", "c"], delay=0)
        assert box.put("b", (0, 0), np.ones(1))
        assert not box.put("b", (AHEAD + 1, 0), np.ones(1))
        assert not box.put("stranger", (0, 0), np.ones(1))
        found, lost = await box.take((0, 0), 0.0)
        assert (found.keys(), lost) == ({"b"}, 1)
        assert not box.put("c", (0, 0), np.ones(1))
        box.leave("c")
        assert box.put("b", (1, 0), None)
        assert await box.take((1, 0), 60.0) == ({"b": None}, 0)

    asyncio.run(play())


@pytest.mark.parametrize(
    "how", [{}, {"bits": 3}, {"bits": 1, "floats": 2}, {"saturation": 0.5}, {"floats": 3, "bits": 24}]
)
def test_what_is_sent_of_a_message_is_what_training_sent(how):
    message = np.random.default_rng(0).normal(size=5).astype(np.float32)
    limits = SenderLimits.read({"floats": None, "bits": None, "saturation": None, "budget": None, "delay": 0, **how})
    np.testing.assert_array_equal(limits.pack(message), marl.Link(**how).pack(torch.from_numpy(message)).numpy())


@pytest.mark.parametrize(
    ("peers", "reason"),
    [
        ({"b": "http://127.0.0.1:1"}, "whoever hears it is a peer too: c"),
        ({"b": "file:///etc/passwd", "c": "http://127.0.0.1:1"}, "expected an address such as"),
        ({"b": "http://10.0.0.2:1", "c": "http://127.0.0.1:1"}, "need a token"),
        ({"d": "http://127.0.0.1:1"}, "not to 'd'"),
    ],
)
def test_peers_that_do_not_fit_are_refused(peers, reason, exported):
    with pytest.raises(marl_runtime.BundleError, match=reason):
        service_of(marl_runtime.load(exported["before"]), "a", peers=peers)


# --- whoever else asks ------------------------------------------------------------------------------------------------

GARBAGE = [
    b"\x00\xff\x16\x03\x01 nothing of this is HTTP\r\n\r\n",
    b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n",
    request("/act", b"\xff\xfe"),
    request("/act", b"[" * 60_000),
    request("/act", b'{"observation": 1e999999, "session": null}'),
    request("/act", b'{"observation": NaN}'),
    request("/act", b'{"session": ' + b"9" * 5_000 + b"}"),
    request("/act", {"session": "../../etc/passwd", "observation": []}),
    request("/act", {"session": ["a"], "observation": []}),
    request("/act", {"__class__": "os.system"}),
    request("/reset", {"seed": -1}),
    request("/reset", {"seed": 2**70}),
    request("/reset", {"seed": True}),
    request("/reset", {"game": 3}),
    request("/reset", b"null"),
    request("/close", {}),
    request("/reset", {}).replace(b"application/json", b"text/plain"),
    request("/act", method="GET"),
    request("/play", method="GET"),
    *(request(path) for path in ("/", "/../../../../etc/passwd", "/%2e%2e/manifest.json", "/manifest.json", "//etc")),
    *(request("/health", method=method) for method in ("DELETE", "TRACE", "PROPFIND")),
]
UNFIT = [None, 1, "text", {}, [], [1, 2], [[1]] * 5, [1, 2, 3, 4, "5"], [1, 2, 3, 4, [5]], [10**400] * 5, [None] * 5]


def test_garbage_is_refused_in_one_line_and_nothing_dies(team):
    async def play():
        async with serving(service_of(team, "a")) as port:
            for data in GARBAGE:
                async with Client(port) as client:
                    client.writer.write(data)
                    head = await client.reader.readline()
                    assert head.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")), (data[:60], head)
            async with Client(port) as client:
                session = (await client.ask("/reset", {}))[1]["session"]
                for observation in UNFIT:
                    status, said = await client.ask("/act", {"session": session, "observation": observation})
                    assert status == 422, (observation, said)
                    assert "\n" not in said["error"]
                assert (await client.ask("/act", {"session": session, "observation": seen(1)[0]}))[0] == 200
                _, text = await client.ask("/metrics")
            assert 'marl_requests_total{status="500"}' not in text
            assert "marl_action_seconds_count 1\n" in text

    asyncio.run(play())


def test_garbage_over_websockets_ends_that_websocket_alone(team):
    layout = team["a"].layout(2)
    begin = packed(Kind.BEGIN, 2, layout.begin, [np.arange(2), np.array(False)])
    conversations = [
        [b""],
        [b"MARL"],
        [b"\x00" * 100],
        [begin[:-1]],
        [packed(Kind.BEGIN, 65, team["a"].layout(65).begin, [np.arange(65), np.array(False)])],
        [packed(Kind.BEGIN, 2, layout.begin, [np.array([-1, -2]), np.array(False)])],
        [begin, begin],
        [begin, b"MARL" + begin[4:]],
        [begin, "text"],
    ]

    async def play():
        service = service_of(team, "a")
        async with serving(service) as port:
            for sent in conversations:
                async with websockets.connect(f"ws://127.0.0.1:{port}/play", compression=None) as talk:
                    for data in sent:
                        await talk.send(data)
                    await talk.wait_closed()
                    assert talk.close_code == 1008, sent
            async with websockets.connect(f"ws://127.0.0.1:{port}/play", compression=None) as talk:
                for text in ("{", "[]", '{"do": "fly"}', '{"do": "act", "observation": [1]}', '{"do": "hear"}'):
                    await talk.send(text)
                    assert json.loads(await talk.recv()).keys() == {"error"}
                await talk.send('{"do": "reset"}')
                assert json.loads(await talk.recv()) == {"ready": True}
                assert len(service.sessions) == 1
                await talk.send("x" * (service.sizes.message + 1))
                await talk.wait_closed()
                assert talk.close_code == 1009
            status, _ = await ask(port, "/health")
            assert status == 200
        assert len(service.sessions) == 0

    asyncio.run(play())


def test_a_request_that_is_too_large_or_too_slow_is_refused(team):
    async def play():
        service = service_of(team, "a", limits=Limits(patience=0.2))
        async with serving(service) as port:
            most = service.sizes.json
            assert (await ask(port, "/act", b" " * (most + 1)))[0] == 413
            async with Client(port) as client:  # without saying how much will come
                head = request("/act", b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
                chunk = b"%x\r\n%s\r\n" % (most, b" " * most)
                assert (await client.send(head + chunk + chunk))[0] == 413
            async with Client(port) as client:  # a body that does not come
                assert (await client.send(request("/act", b"").replace(b"Length: 0", b"Length: 9")))[0] == 408
            async with Client(port) as client:  # a head that does not come
                client.writer.write(b"GET /health HTTP/1.1\r\n")
                assert await client.reader.read() == b""

    asyncio.run(play())


def test_a_client_that_reads_no_answers_loses_its_sessions(team):
    copies, small = 64, 4096
    layout = team["a"].layout(copies)
    begin = packed(Kind.BEGIN, copies, layout.begin, [np.arange(copies), np.array(False)])
    flags = [np.zeros(copies, bool), np.zeros(copies, bool)]
    look = packed(Kind.LOOK, copies, layout.observe, [*flags, np.zeros((copies, 5), np.float32)])

    async def play():
        service, listener = service_of(team, "a", limits=Limits(patience=0.2)), bound("127.0.0.1", 0, None)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, small)
        async with serving(service, listener) as port:
            silent = socket.create_connection(("127.0.0.1", port))
            silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, small)
            client = await websockets.connect(f"ws://127.0.0.1:{port}/play", sock=silent, compression=None, max_queue=1)
            await client.send(begin)
            await client.recv()
            assert len(service.sessions) == copies

            async def flood():
                while True:
                    await client.send(look)

            flooding = asyncio.create_task(flood())
            async with asyncio.timeout(20):
                while len(service.sessions):
                    await asyncio.sleep(0.05)
            flooding.cancel()
            assert (await ask(port, "/health"))[0] == 200
            client.transport.abort()

    asyncio.run(play())


def test_200_clients_at_once_are_answered_and_memory_does_not_grow(team):
    rows, steps = seen(200), 3
    service = service_of(team, "a", limits=Limits(sessions=256))

    async def one(port, row):
        async with Client(port) as client:
            session = (await client.ask("/reset", {"seed": 0}))[1]["session"]
            actions = [(await client.ask("/act", {"session": session, "observation": row}))[1] for _ in range(steps)]
            await client.ask("/close", {"session": session})
            return [said["action"] for said in actions]

    def alive():
        return sum(issubclass(type(one), Session | marl_runtime.Agent | H11Protocol) for one in gc.get_objects())

    async def play():
        async with serving(service) as port:
            found, kept = [], []
            for _ in range(2):
                found.append(await asyncio.gather(*(one(port, row) for row in rows)))
                await asyncio.sleep(0.1)  # for connections to be closed on both sides
                gc.collect()
                kept.append(alive())
            return found, kept

    gc.collect()
    before = alive()
    found, kept = asyncio.run(play())
    agent, expected = team["a"], []
    for row in rows:
        agent.reset(0)
        expected.append([agent.act(np.array(row, np.float32)) for _ in range(steps)])
    assert found == [expected] * 2
    assert len(service.sessions) == 0
    assert kept == [before] * 2


def test_sessions_are_bounded_and_expire(team):
    async def play():
        service = service_of(team, "a", limits=Limits(sessions=3, copies=8, idle=60.0))
        now = [0.0]
        service.sessions._clock = lambda: now[0]
        async with serving(service) as port, Client(port) as client:
            names = [(await client.ask("/reset", {}))[1]["session"] for _ in range(3)]
            assert len(set(names)) == 3
            status, said = await client.ask("/reset", {})
            assert (status, said) == (503, {"error": "3 sessions are open; close some, or wait until they expire"})
            now[0] = 59.0
            assert (await client.ask("/act", {"session": names[0], "observation": seen(1)[0]}))[0] == 200
            now[0] = 61.0
            service.sweep()
            assert len(service.sessions) == 1
            assert (await client.ask("/act", {"session": names[1], "observation": seen(1)[0]}))[0] == 404
            layout = team["a"].layout(3)
            begin = packed(Kind.BEGIN, 3, layout.begin, [np.arange(3), np.array(False)])
            async with websockets.connect(f"ws://127.0.0.1:{port}/play", compression=None) as talk:
                await talk.send(begin)
                await talk.wait_closed()
                assert talk.close_code == 1008
            assert (await client.ask("/reset", {"session": names[0]}))[0] == 200  # in place of the one before
            assert len(service.sessions) == 1
            assert "marl_sessions_expired 2" in (await client.ask("/metrics"))[1]

    asyncio.run(play())


def test_beyond_connections_that_may_be_nobody_is_let_in(team):
    async def play():
        async with (
            serving(service_of(team, "a", limits=Limits(connections=4))) as port,
            Client(port) as first,
            Client(port),
            Client(port),
            Client(port),
            Client(port) as refused,
        ):
            with contextlib.suppress(ConnectionResetError):
                assert await refused.reader.read() == b""
            assert (await first.ask("/health"))[0] == 503  # as many as there may be: none is left for an answer

    asyncio.run(play())


# --- who may ask ------------------------------------------------------------------------------------------------------


def test_without_the_token_nothing_but_health_is_answered(team):
    async def play():
        async with serving(service_of(team, "a", token=TOKEN)) as port:
            for sent in (
                (),
                (f"Bearer {TOKEN[:-1]}",),
                (f"Bearer {TOKEN}0",),
                (TOKEN,),
                ("Bearer ",),
                (f"Basic {TOKEN}",),
            ):
                headers = [f"Authorization: {one}" for one in sent]
                status, said = await ask(port, "/reset", {}, headers=headers)
                assert (status, said) == (401, {"error": "expected the header Authorization: Bearer TOKEN"})
                with pytest.raises(websockets.InvalidStatus):
                    await websockets.connect(f"ws://127.0.0.1:{port}/play")
            twice = [f"Authorization: Bearer {TOKEN}"] * 2
            assert (await ask(port, "/reset", {}, headers=twice))[0] == 400
            right = [f"Authorization: Bearer {TOKEN}"]
            assert (await ask(port, "/reset", {}, headers=right, host="robot.example"))[0] == 200
            assert await ask(port, "/health", host="robot.example") == (200, {"status": "ok"})
            assert (await ask(port, "/metrics"))[0] == 401

    asyncio.run(play())


def test_pages_of_other_sites_and_foreign_names_of_this_machine_are_refused(team):
    async def play():
        async with serving(service_of(team, "a")) as port, Client(port) as client:
            for headers in (["Origin: http://evil.example"], ["Origin: null"], ["Sec-Fetch-Site: cross-site"]):
                assert (await client.ask("/reset", {}, headers=headers))[0] == 403
            assert (await client.ask("/health", host="evil.example"))[0] == 403
            assert (await client.ask("/health", host="127.0.0.1.evil.example"))[0] == 403
            for host in (f"localhost:{port}", "[::1]:80", "127.0.0.1"):
                assert (await client.ask("/health", host=host))[0] == 200
            assert client.headers["content-security-policy"].startswith("default-src 'none'")
            assert client.headers["x-content-type-options"] == "nosniff"
            assert "access-control-allow-origin" not in client.headers
            with pytest.raises(websockets.InvalidStatus):
                await websockets.connect(f"ws://127.0.0.1:{port}/play", origin="http://evil.example")

    asyncio.run(play())


def test_other_machines_are_let_in_with_a_token_alone():
    with pytest.raises(marl_runtime.BundleError, match="give --token-file"):
        bound("0.0.0.0", 0, None)
    bound("0.0.0.0", 0, TOKEN).close()
    bound("localhost", 0, None).close()


def test_a_foreign_agents_messages_must_be_frames_of_the_team(exported):
    (service, listener), *others = linked(exported, "before").values()

    async def play():
        async with serving(service, listener) as port:
            for data in (b"", b"MARL" * 10, "text", packed(Kind.END, 1, [], [])):
                async with websockets.connect(f"ws://127.0.0.1:{port}/messages", compression=None) as talk:
                    await talk.send(data)
                    await talk.wait_closed()
                    assert talk.close_code == 1008
            for numbers in ([3, 0, 0, 0], [-1, 0, 0, 0], [1, -1, 0, 0], [1, 0, -1, 0], [1, 0, 0, 1]):
                frame = packed(Kind.MESSAGE, 1, service.peers._fields, [np.array(numbers), np.zeros(4), np.array(1.0)])
                with pytest.raises(Exception, match="a message "):
                    service.peers.receive(frame)
            for game in range(5_000):  # games that never begin here are bounded too
                numbers = np.array([1, game, 0, 0])
                service.peers.receive(
                    packed(Kind.MESSAGE, 1, service.peers._fields, [numbers, np.zeros(4), np.array(1.0)])
                )
            assert len(service.peers._early) == service.limits.sessions

    asyncio.run(play())
    for _, one in others:
        one.close()


# --- the command ------------------------------------------------------------------------------------------------------


def test_serving_imports_no_torch(exported):
    code = (
        "import sys, marl.cli.serve, marl_runtime\n"
        "from marl_runtime.service.listening import bound, server, service_of\n"
        f"server(service_of(marl_runtime.load({str(exported['gru'])!r}), 'a'))\n"
        "print([name for name in ('torch', 'gymnasium', 'numba', 'marl.system') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "--agent is missing: choose one of a, b, c"),
        (["--agent", "d"], "agent 'd' is not in the bundle (known: a, b, c)"),
        (["--agent", "a", "--host", "0.0.0.0"], "give --token-file, or listen on 127.0.0.1"),
        (["--agent", "a", "--port", "70000"], "--port: expected a number from 0 to 65535"),
        (["--agent", "a", "--token-file", "nowhere"], "--token-file nowhere: No such file"),
        (["--agent", "a", "--token-file", "short"], "expected one line of 16 to 1024 characters"),
        (["--agent", "a", "--peers", "b"], "--peers: expected AGENT=URL, got 'b'"),
        (["--agent", "a", "--peers", "b=http://127.0.0.1:1"], "says nothing and hears nobody"),
        (["--agent", "a", "--deadline", "0"], "expected numbers above 0"),
    ],
)
def test_what_cannot_be_served_is_one_line(words, reason, exported, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short").write_text("secret\n")
    said = command("serve", exported["gru"], "--port", 0, *words)
    assert said.code == 2
    assert reason in said.err
    assert said.err.count("\n") == 1


def test_a_missing_library_names_the_extra(exported, command, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    said = command("serve", exported["gru"], "--agent", "a")
    assert said.err == "marl: error: starlette is not installed: pip install 'marl-system[serve]'\n"
