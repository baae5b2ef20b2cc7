"""The replay in a real browser: another run beside it, filters, what agents think and see, clips."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest

import marl
from marl.cli import main
from marl.report import Recording, record
from tests.support.browser import browser, needs_browser

pytestmark = needs_browser
PPO = {"rollout": 8, "minibatches": 1}
CHOOSE = "((one) => { one.value = %s; one.dispatchEvent(new Event('%s')); })(document.getElementById('%s'))"
DISCS = "(one) => one.marks[7].filter((mark) => mark[0] === CIRCLE).map((mark) => [mark[1], mark[2]])"
ENCODED = "(data) => { let text = ''; for (const one of data) text += String.fromCharCode(one); return btoa(text); }"
PAINTED = """(() => {
  const {canvas, pen, paint} = replayOf.frames();
  paint(6);
  return [...pen.getImageData(0, 0, canvas.width, canvas.height).data];
})()"""
HELD = "document.getElementById('%s').value"


def system(seed, **how):
    learner = marl.mappo(channel=marl.TarMAC(), **PPO)
    return marl.MultiAgentSystem(learner, "marl/spread-v0", num_envs=2, seed=seed, **how)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Two teams in the same five episodes, and the page of both."""
    folder = tmp_path_factory.mktemp("replay")
    hooks = [marl.shaping.StepCost(0.5)]
    for name, seed, how in (("one", 0, {"shaping": hooks}), ("other", 1, {})):
        with system(seed, **how) as team:
            record(team, 5, seed=3).save(folder / f"{name}.npz")
    out = folder / "both.html"
    assert main(["report", str(folder / "one.npz"), str(folder / "other.npz"), "--out", str(out)]) == 0
    return folder


@pytest.fixture(scope="module")
def tab(tmp_path_factory, recordings):
    with browser(tmp_path_factory.mktemp("profile")) as tabs:
        yield tabs().open(f"file://{recordings / 'both.html'}")


def choose(tab, name, value, event="change"):
    tab.run(CHOOSE % (json.dumps(value), event, name))


def moment(tab, address):
    tab.run(f"(location.hash = '', location.hash = {json.dumps(address)})")
    step = address.split("step=")[1].split("&")[0]
    tab.wait(f"document.getElementById('step').textContent.startsWith('step {step} ')")


def column(tab, name):
    """The cells of a column of the agents' table."""
    heads = tab.texts("#agents thead th")
    return tab.texts(f"#agents tbody tr > :nth-child({1 + heads.index(name)})")


def test_two_runs_on_one_seed_stand_side_by_side_at_the_same_step(tab, recordings):
    one, other = (Recording.load(recordings / f"{name}.npz") for name in ("one", "other"))
    moment(tab, "#recording=0&episode=2&step=7&beside=1")
    assert tab.run(HELD % "beside") == "1"
    assert any("same seed" in text for text in tab.texts("#beside option"))
    (shown,) = tab.texts("#beside-said")
    assert shown.startswith("other: step 7 of 25")
    sums = [sum(made.episodes[2].rewards[agent][:7].sum() for agent in made.agents) for made in (one, other)]
    assert float(shown.rsplit(" ", 1)[1]) == pytest.approx(sums[1], rel=1e-3)
    assert float(tab.texts("#return")[0]) == pytest.approx(sums[0], rel=1e-3)
    ours, theirs = tab.run(f"[replayOf.picture, replayOf.beside].map({DISCS})")
    assert sum(place in theirs for place in ours) == 3  # the landmarks of the same episode; agents are elsewhere
    tab.run("replayOf.go(8)")
    tab.wait("location.hash === '#recording=0&episode=2&step=8&beside=1'")
    choose(tab, "beside", "")
    assert tab.said == []


def test_episodes_are_filtered_by_return_and_length(tab, recordings):
    made = Recording.load(recordings / "one.npz")
    moment(tab, "#recording=0&episode=0&step=0")
    totals = sorted(episode.total for episode in made.episodes)
    choose(tab, "low", str(totals[2] - 1e-3), "input")
    assert tab.texts("#found") == ["3 of 5 episodes"]
    kept = {int(text.split(":")[0]) for text in tab.texts("#episode option")}
    assert kept == {n for n, episode in enumerate(made.episodes) if episode.total >= totals[2] - 1e-3}
    assert int(tab.run(HELD % "episode")) in kept
    choose(tab, "long", "3", "input")
    assert tab.texts("#found") == ["0 of 5 episodes"]
    for name in ("low", "long"):
        choose(tab, name, "", "input")
    assert tab.texts("#found") == ["5 of 5 episodes"]
    assert tab.said == []


def test_values_shaping_and_attention_of_a_step_are_those_of_the_recording(tab, recordings):
    made = Recording.load(recordings / "one.npz")
    one, step = made.episodes[1], 9
    moment(tab, f"#recording=0&episode=1&step={step}")
    for name, wanted in (
        ("value", one.values),
        ("shaping adds", {agent: one.shaping[agent][-1:] for agent in made.agents}),
    ):
        for cell, agent in zip(column(tab, name), made.agents, strict=True):
            assert float(cell) == pytest.approx(wanted[agent][min(step, len(wanted[agent]) - 1)], rel=1e-2, abs=1e-3)
    tab.run("document.querySelectorAll('#agents .name')[1].click()")
    rows = tab.run(
        "[...document.querySelectorAll('#heard tbody tr')].map((row) => [...row.cells].map((one) => one.textContent))"
    )
    assert [row[0] for row in rows] == ["agent_0", "agent_2"]
    for row, speaker in zip(rows, (0, 2), strict=True):
        assert float(row[3]) == pytest.approx(one.attention["team"][step, 1, speaker], abs=2e-3)
    saw = [float(text) for text in tab.texts("#saw .entry")]
    np.testing.assert_allclose(saw, one.observations["agent_1"][step], rtol=1e-2, atol=1e-3)
    assert tab.said == []


def test_curves_of_values_and_rewards_go_with_the_step(tab, recordings):
    made = Recording.load(recordings / "one.npz")
    moment(tab, "#recording=0&episode=1&step=9")
    names = tab.run("[...document.getElementById('drawn').options].map((one) => one.value)")
    assert names == ["return", "value", "came", "reward"]
    for name, lines in (("return", 3), ("value", 3), ("came", 2), ("reward", 2)):
        choose(tab, "drawn", name)
        assert tab.run("document.querySelectorAll('#over-time .line').length") == lines
    # The discounted return to come, from the last step backwards: rewards and what shaping adds.
    tab.run("replayOf.choose(0)")
    one, discount = made.episodes[1], made.discounts["team"]
    learnt = one.rewards["agent_0"] + one.shaping["agent_0"]
    came = tab.run(
        f"toCome(replayOf.episode.rewards[0].map((one, t) => one + replayOf.episode.shaping[0][t]), {discount})"
    )
    assert came[20] == pytest.approx(sum(discount**n * reward for n, reward in enumerate(learnt[20:])), rel=1e-4)
    before = tab.run("replayOf.cursor.getAttribute('transform')")
    tab.run("replayOf.go(20)")
    assert tab.run("replayOf.cursor.getAttribute('transform')") != before
    choose(tab, "drawn", "return")
    assert tab.said == []


def test_overlays_and_an_agents_eyes_change_what_is_drawn(tab):
    moment(tab, "#recording=0&episode=1&step=9")
    picture = "replayOf.canvas.toDataURL()"
    seen = [tab.run(picture)]
    for name in ("thoughts", "eyes"):
        tab.run(f"document.getElementById('{name}').click()")
        seen.append(tab.run(picture))
    choose(tab, "arrows", "")
    seen.append(tab.run(picture))
    assert len(set(seen)) == 4
    choose(tab, "arrows", "weights")
    for name in ("thoughts", "eyes"):
        tab.run(f"document.getElementById('{name}').click()")
    assert tab.run(picture) == seen[0]


def test_a_clip_is_a_gif_of_those_steps(tab):
    from PIL import Image

    moment(tab, "#recording=0&episode=1&step=0")
    tab.run("for (const [key, value] of [['begin', 2], ['end', 6]]) replayOf.clip[key].value = value")
    data = tab.run(f"replayOf.gif().then({ENCODED})")
    with Image.open(io.BytesIO(base64.b64decode(data))) as clip:
        assert clip.n_frames == 5
        width, height = clip.size
        assert height == width + 22  # the caption
        for frame in range(clip.n_frames):
            clip.seek(frame)
            pixels = np.asarray(clip.convert("RGB"))
            assert (pixels[0, 0] == 255).all()
            assert 0.002 < (pixels[width:] < 100).all(-1).mean() < 0.3  # some ink of words
    wanted = tab.run(PAINTED)
    frame = np.array(wanted, dtype=np.int64).reshape(height, width, 4)[..., :3]
    assert np.abs(frame - pixels).max() <= 26  # half of a step of the palette
    assert tab.texts("#clip-said")[0].startswith("5 frames")
    assert tab.said == []


def test_a_clip_is_a_video_where_the_browser_records_one(tab):
    tab.run("for (const [key, value] of [['begin', 0], ['end', 3]]) replayOf.clip[key].value = value")
    size = tab.run("replayOf.video()")
    assert size is None or size > 500
    assert tab.said == []
