"""Metrics on their way to a file, TensorBoard, the screen and a picture."""

from __future__ import annotations

import errno
import io
import json
import math

import pytest
import torch

from marl.logs import MetricsFile, read_metrics
from marl.logs import metrics as metrics_module
from marl.logs.files import RetryBackoff, read_json, safe_name, write_json
from marl.logs.metrics import finite, keep_until, line_of
from marl.logs.progress import Progress, duration, sparkline
from marl.types import ConfigError, ResourceError


@pytest.fixture
def said():
    return []


@pytest.fixture
def patience(said):
    return RetryBackoff("the metrics", said.append, seconds=0.0, limit=3)


def test_rows_come_back(tmp_path, patience):
    file = MetricsFile(tmp_path / "metrics.jsonl", patience)
    rows = [{"steps": 10, "mean_return": -1.5}, {"steps": 20, "mean_return": 2.0, "new": 1.0}]
    for row in rows:
        file.log(row)
        assert read_metrics(tmp_path)[-1] == row  # at once, not when the file is closed
    file.close()
    assert read_metrics(tmp_path / "metrics.jsonl") == rows
    from marl.training.curves import column

    assert column(rows, "new") == ([20], [1.0])
    assert read_metrics(tmp_path / "nowhere") == []


def test_odd_names_and_values_are_one_line_of_plain_json():
    odd = {"a\nb": 1.0, "<script>": float("nan"), "ünï\u2028": float("-inf"), "t": torch.tensor(2.0), "x" * 10_000: 3}
    line = line_of(odd)
    assert line.count(b"\n") == 1
    assert line.isascii()
    row = json.loads(line)
    assert row["a\nb"] == 1.0
    assert row["<script>"] is None
    assert row["ünï\u2028"] is None
    assert row["t"] == 2.0
    assert max(map(len, row)) == metrics_module.LONGEST_NAME
    assert line_of({"x" * 300 + "a": 1}) != line_of({"x" * 300 + "b": 1})


def test_torn_and_foreign_lines_cost_nothing_but_themselves(tmp_path, patience):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"steps": 1}\n\xff\xfe\n[1]\n\n{"steps": 2, "x": null}\n{"steps": 3, "mean')
    rows = read_metrics(path)
    assert [row["steps"] for row in rows] == [1, 2]
    assert math.isnan(rows[1]["x"])
    file = MetricsFile(path, patience)  # goes on behind the last whole line
    file.log({"steps": 4})
    file.close()
    assert [row["steps"] for row in read_metrics(path)] == [1, 2, 4]


def test_rows_that_will_be_logged_again_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert keep_until(path, 5) == 0
    path.write_bytes(b'{"steps": 1}\n{"steps": 5}\n{"steps": 6}\n{"steps"')
    assert keep_until(path, 5) == 2
    assert path.read_bytes() == b'{"steps": 1}\n{"steps": 5}\n'


def test_a_full_disk_loses_no_row(tmp_path, patience, said, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path, patience)
    file.log({"steps": 1})
    true = metrics_module.os.write

    def full(descriptor, data):
        true(descriptor, data[:7])  # some of it fits
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(metrics_module.os, "write", full)
        file.log({"steps": 2})
        file.log({"steps": 3})
    assert [row["steps"] for row in read_metrics(path)] == [1]
    assert len(said) == 2
    assert "training goes on" in said[0]
    file.log({"steps": 4})
    file.close()
    assert path.read_bytes() == b"".join(line_of({"steps": n}) for n in (1, 2, 3, 4))


def test_patience_ends_after_its_limit(said):
    patience = RetryBackoff("it", said.append, seconds=100.0, limit=3)
    error = OSError(errno.ENOSPC, "No space left on device")
    assert patience.ready
    patience.failed(error)
    assert not patience.ready
    assert 99 < patience.wait <= 100
    patience.failed(error)
    assert 199 < patience.wait <= 200
    with pytest.raises(ResourceError, match="3 times in a row"):
        patience.failed(error)
    patience.succeeded()
    assert patience.ready


def test_json_files_are_replaced_in_one_move(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            write_json(path, {"a": 2})
    assert read_json(path) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(ConfigError, match="cannot be read"):
        read_json(tmp_path / "b.json")
    assert finite({"a": [math.nan, 1.0], "b": (math.inf,)}) == {"a": [None, 1.0], "b": [None]}


def test_names_become_file_names():
    assert safe_name("../../etc/passwd") == "etc-passwd"
    assert safe_name("a b\n<script>\u00e9") == "a-b-script"
    assert safe_name("") == "run"
    assert len(safe_name("x" * 10_000)) == 80


def test_tensorboard_events_come_back(tmp_path):
    from marl.logs.tensorboard import Events

    board = Events(tmp_path)
    board.log({"steps": 5, "mean_return": 1.5, "bad": math.nan})
    board.close()
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    assert events.Tags()["scalars"] == ["mean_return"]
    assert [(event.step, event.value) for event in events.Scalars("mean_return")] == [(5, 1.5)]


def test_tensorboard_events_are_written_again_if_their_folder_was_removed(tmp_path):
    from marl.logs.tensorboard import Events

    board = Events(tmp_path / "events")
    for step in (1, 2, 3):
        if step == 3:
            (tmp_path / "events").rename(tmp_path / "away")
        board.log({"steps": step, "mean_return": float(step)})
    board.close()
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    assert [event.value for event in events.Scalars("mean_return")] == [1, 2, 3]


def test_a_full_disk_keeps_tensorboard_events_waiting_and_nobody_else(tmp_path, monkeypatch, said):
    from marl.logs.tensorboard import Events

    board = Events(tmp_path, note=said.append)
    write, full = Events._write, [False, True, True, False]

    def refuse(self, metrics):
        if full.pop(0):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, metrics)

    monkeypatch.setattr(Events, "_write", refuse)
    board.log({"steps": 1, "mean_return": 1.0})
    board.log({"steps": 2, "mean_return": 2.0})
    board.log({"steps": 3, "mean_return": 3.0})
    monkeypatch.undo()
    board.log({"steps": 4, "mean_return": 4.0})
    board.close()
    assert said == ["TensorBoard events could not be written (No space left on device); training goes on"]
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.value for event in events.Scalars("mean_return")] == [1, 2, 3, 4]


def test_a_sparkline_shows_the_course():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([5.0, 5.0]) == "▄▄"
    assert sparkline([]) == sparkline([math.nan]) == ""
    assert len(sparkline(list(range(1000)))) == 24
    assert [duration(s) for s in (0, 59.6, 61, 3661, math.inf)] == ["0:00", "1:00", "1:01", "1:01:01", "?"]


def test_without_a_terminal_progress_is_plain_lines(monkeypatch):
    monkeypatch.setattr("marl.logs.progress.LINE_SECONDS", 1e9)
    stream = io.StringIO()
    progress = Progress(1000, ["red", "blue"], stream=stream)
    progress.log({"steps": 500, "mean_return": 3.0, "red/mean_return": 1.0, "blue/mean_return": 2.0})
    progress.log({"steps": 600, "mean_return": 3.0})  # too soon after the last line
    progress.tick(700)
    progress.log({"steps": 1000, "red/mean_return": 4.0, "evaluation_return": 9.0})
    progress.close()
    first, last = stream.getvalue().splitlines()
    assert first.startswith("steps 500/1,000 (50%)")
    assert "red 1.00  blue 2.00" in first
    assert "evaluation 9.00" in last
    assert "\x1b" not in stream.getvalue()


def test_progress_shows_the_stage_of_every_curriculum():
    stream = io.StringIO()
    progress = Progress(10, ["red", "blue"], stream=stream)
    progress.log({"steps": 5, "curriculum/stage": 2.0, "red/curriculum/stage": 1.0, "blue/curriculum/progress": 0.5})
    progress.close()
    assert "stage 2  stage red 1" in stream.getvalue()


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def test_on_a_terminal_progress_is_drawn_in_place(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()
    progress = Progress(1000, ["team"], stream=stream)
    for steps in (250, 500, 1000):
        progress.log({"steps": steps, "mean_return": float(steps)})
        progress.tick(steps)
    progress.note("[bold]plain[/bold]")
    progress.close()
    text = stream.getvalue()
    assert "1,000 / 1,000" in text
    assert "▁▃█" in text
    assert "steps/s" in text
    assert "[bold]plain[/bold]" in text


def test_a_plot_needs_something_to_draw(tmp_path):
    from marl.logs.curves import plot_curves

    run = tmp_path / "_a$b"
    run.mkdir()
    with pytest.raises(ConfigError, match="nothing to plot"):
        plot_curves([run], tmp_path / "out.png")
    (run / "metrics.jsonl").write_bytes(b'{"steps": 1, "mean_return": 1, "evaluation_return": null}\n')
    assert plot_curves([run], tmp_path / "deep" / "out.png").read_bytes()[:4] == b"\x89PNG"
