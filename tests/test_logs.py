"""Metrics on their way to a file, TensorBoard, the screen and a picture."""

from __future__ import annotations

import csv
import errno
import io
import json
import math
import sys
import threading
import time
import types
from pathlib import Path

import pytest
import torch

import marl
from marl.config import finite
from marl.logs import CSV, LoggedRun, MetricsFile, MLflow, TensorBoard, WandB, apart, begin, logger_named, read_metrics
from marl.logs import csv as csv_module
from marl.logs import metrics as metrics_module
from marl.logs.csv import Table
from marl.logs.files import RetryBackoff, read_json, safe_name, write_json
from marl.logs.metrics import keep_until, line_of
from marl.logs.progress import Progress, duration, sparkline
from marl.run import Run
from marl.types import ConfigError, ResourceError
from tests.support.tiny import Constant


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


def test_progress_shows_ratings_and_win_rates_of_leagues():
    stream = io.StringIO()
    progress = Progress(10, ["red", "blue"], stream=stream)
    progress.log({"steps": 5, "red/league/rating": 1012.3, "red/league/win_rate": 0.614, "blue/league/rating": 987.7})
    progress.close()
    assert "rating red 1012  win rate red 61%  rating blue 987.7" in stream.getvalue()
    stream = io.StringIO()
    progress = Progress(10, ["team"], stream=stream)
    progress.log({"steps": 5, "league/rating": 23.456, "league/iteration": 3, "league/gain": 0.25, "league/pool": 4})
    progress.close()
    assert "rating 23.46  iteration 3  gain of responses 0.25  time left" in stream.getvalue()


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
    from marl.studies.run_curves import plot_runs

    run = tmp_path / "_a$b"
    run.mkdir()
    (run / "metrics.jsonl").write_bytes(b"")
    with pytest.raises(ConfigError, match="nothing to plot"):
        plot_runs([run], tmp_path / "out.png")
    (run / "metrics.jsonl").write_bytes(b'{"steps": 1, "mean_return": 1, "evaluation_return": null}\n')
    assert plot_runs([run], tmp_path / "deep" / "out.png").read_bytes()[:4] == b"\x89PNG"


# --- a table ----------------------------------------------------------------------------------------------------------


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_table_has_a_column_for_every_metric_whenever_it_comes(tmp_path):
    file = tmp_path / "deep" / "metrics.csv"
    rows = Table(file)
    rows.log({"steps": 8, "a": 0.1})
    assert file.read_text() == "steps,a\n8,0.1\n"  # at once
    rows.log({"steps": 16, "a": 1 / 3})
    rows.log({"steps": 24, "b, the other": -2.0, "a": math.nan})
    rows.log({"steps": 32, "b, the other": 1e-300})
    rows.close()
    assert file.read_text() == ('steps,a,"b, the other"\n8,0.1,\n16,0.3333333333333333,\n24,,-2\n32,,1e-300\n')


def test_a_resumed_table_drops_what_comes_again(tmp_path):
    file = tmp_path / "metrics.csv"
    first = Table(file)
    for steps in (8, 16, 24):
        first.log({"steps": steps, "a": steps / 10})
    again = Table(file, resumed_at=16)
    again.log({"steps": 20, "b": 1.0})
    assert [(row["steps"], row["a"], row["b"]) for row in table(file)] == [
        ("8", "0.8", ""),
        ("16", "1.6", ""),
        ("20", "", "1"),
    ]
    Table(file).log({"steps": 4})  # a new run
    assert file.read_text() == "steps\n4\n"
    Table(tmp_path / "new.csv", resumed_at=16).log({"steps": 20})
    (tmp_path / "link.csv").symlink_to(file)
    with pytest.raises(ConfigError, match=r"link\.csv: cannot be read"):
        Table(tmp_path / "link.csv", resumed_at=16)


def test_a_full_disk_loses_no_row_of_a_table(tmp_path, said, monkeypatch):
    rows = Table(tmp_path / "metrics.csv", note=said.append)
    rows.log({"steps": 1})

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(csv_module.files, "opened", full)
        rows.log({"steps": 2})
        patch.setattr(csv_module, "replace_file", full)
        rows.log({"steps": 3})
    assert len(said) == 1
    assert "metrics.csv could not be written (No space left on device); training goes on" in said[0]
    rows.log({"steps": 4})
    assert [row["steps"] for row in table(tmp_path / "metrics.csv")] == ["1", "2", "3", "4"]
    (tmp_path / "metrics.csv").unlink()
    rows.log({"steps": 5})
    assert len(table(tmp_path / "metrics.csv")) == 5


# --- loggers that fail ------------------------------------------------------------------------------------------------


class Failing:
    """A logger, and what it builds, that does as it is told."""

    def __init__(self, log=lambda row: None, tick=lambda steps: None, close=lambda: None):
        self.log, self.tick, self.close = log, tick, close

    def build(self, run):
        return self


def train(loggers, **options):
    with marl.MultiAgentSystem(marl.ippo(rollout=8, minibatches=1), Constant, num_envs=1) as system:
        return system.train(steps=32, log_every=8, loggers=loggers, **options)


@pytest.mark.parametrize("where", ["log", "tick", "close"])
@pytest.mark.parametrize("error", [ValueError("no\nway"), SystemExit(3), KeyboardInterrupt()])
def test_a_logger_that_raises_harms_nothing_but_itself(where, error, caplog):
    came = []

    def fail(*_):
        raise error

    history = train([Failing(**{where: fail}), Failing(log=lambda row: came.append(row["steps"]))])
    assert history["steps"] == came == [8, 16, 24, 32]
    notes = [record.message for record in caplog.records if record.name == "marl.logs"]
    why = f"{type(error).__name__}: {' '.join(str(error).split())}"
    assert notes == [f"logger Failing failed ({why}); it logs nothing more, and all else goes on"]


def test_a_logger_that_hangs_harms_nothing_but_itself(caplog, monkeypatch):
    monkeypatch.setattr(apart, "MOST_WAITING", 2)
    monkeypatch.setattr(apart, "LAST_WAIT", 0.01)
    for_ever = threading.Event()
    history = train([Failing(log=lambda row: for_ever.wait())])
    assert history["steps"] == [8, 16, 24, 32]  # it got the first one, two waited, one was too many
    (note,) = (record.message for record in caplog.records if record.name == "marl.logs")
    assert note == "logger Failing did not answer for 2 rows; it logs nothing more, and all else goes on"
    caplog.clear()
    sink = begin(Failing(close=for_ever.wait), LoggedRun("run"))
    sink.log({"steps": 1})
    sink.close()
    (note,) = (record.message for record in caplog.records)
    assert note == "logger Failing was not done 0.01 seconds after the end; it logs nothing more, and all else goes on"
    for_ever.set()


def test_a_logger_that_cannot_begin_says_so_before_anything_is_trained():
    def build(run):
        raise ConfigError("no such server")

    refusing = Failing()
    refusing.build = build
    with pytest.raises(ConfigError, match="no such server"):
        train([refusing])


# --- Weights & Biases -------------------------------------------------------------------------------------------------


class StandIn(types.ModuleType):
    """In place of the package ``wandb``: keeps what it is called with."""

    def __init__(self):
        super().__init__("wandb")
        self.begun, self.rows, self.finished, self.id = [], [], 0, "abc123"

    def init(self, **how):
        self.begun.append(how)
        return self

    def Settings(self, **how):
        return how

    def define_metric(self, *names, **how):
        assert (names, how) == (("*",), {"step_metric": "steps"})

    def log(self, row):
        self.rows.append(row)

    def finish(self):
        self.finished += 1


def test_wandb_is_told_every_row_and_a_resumed_run_goes_on_there(tmp_path, monkeypatch):
    """With a stand-in for the package; the next test takes the package itself, where it is installed."""
    there = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", there)
    folder = tmp_path / "mine"
    settings = {"lr": 0.1, "limit": math.inf}
    sink = WandB(project="p", mode="offline").build(LoggedRun("env", folder, None, settings))
    sink.log({"steps": 8, "a": 0.5, "bad": math.nan})
    sink.close()
    (how,) = there.begun
    assert (how["project"], how["name"], how["mode"], how["id"]) == ("p", "mine", "offline", None)
    assert how["config"] == {"lr": 0.1, "limit": None}
    assert (how["dir"], how["settings"]["console"]) == (str(folder), "off")
    assert (there.rows, there.finished) == ([{"steps": 8, "a": 0.5}], 1)
    WandB().build(LoggedRun("env", folder, 8))
    assert (there.begun[1]["id"], there.begun[1]["resume"]) == ("abc123", "allow")
    (folder / "wandb" / "run-id").write_text("../../x")
    WandB().build(LoggedRun("env", folder, 8))
    assert there.begun[2]["id"] is None
    WandB().build(LoggedRun("env"))
    assert (there.begun[3]["dir"], there.begun[3]["name"]) == (None, "env")

    def refuse(**how):
        raise RuntimeError("api_key not\nconfigured")

    there.init = refuse
    with pytest.raises(ConfigError, match=r"could not be begun there \(api_key not configured\); try mode='offline'"):
        WandB().build(LoggedRun("env"))
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"wandb is not installed: pip install 'marl-system\[wandb\]'"):
        WandB().build(LoggedRun("env"))


# --- MLflow -----------------------------------------------------------------------------------------------------------


class Client:
    """In place of MLflow's: keeps what it is called with."""

    def __init__(self, tracking_uri):
        self.uri, self.calls = tracking_uri, []
        Client.last = self

    def __getattr__(self, name):
        def call(*args, **how):
            self.calls.append((name, args, how))
            info = types.SimpleNamespace(run_id="abc123")
            return {"create_experiment": "7", "create_run": types.SimpleNamespace(info=info)}.get(name)

        return call

    def made(self, name):
        return [(args, how) for called, args, how in self.calls if called == name]


def test_mlflow_is_told_every_row_and_a_resumed_run_goes_on_there(tmp_path, monkeypatch):
    """With a stand-in for the package; a later test takes the package itself, where it is installed."""
    entities = types.SimpleNamespace(Metric=lambda *fields: fields, Param=lambda *fields: fields)
    monkeypatch.setitem(sys.modules, "mlflow", types.ModuleType("mlflow"))
    monkeypatch.setitem(sys.modules, "mlflow.tracking", types.SimpleNamespace(MlflowClient=Client))
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    folder = tmp_path / "mine"
    settings = {"lr": 0.1, "limit": math.inf, "learner": {"$class": "PPO", "sizes": [64, 64]}, "long": "x" * 600}
    sink = MLflow(experiment="e", uri="there").build(LoggedRun("env", folder, None, settings))
    there = Client.last
    sink.log({"steps": 8, "a/b": 0.5, "odd: name": 1.0, "bad": math.nan})
    sink.close()
    assert there.uri == "there"
    assert there.made("create_experiment") == [(("e",), {})]
    assert there.made("create_run") == [(("7",), {"run_name": "mine"})]
    (_, params), (_, metrics) = there.made("log_batch")
    learner = [("learner._class", "PPO"), ("learner.sizes", "[64, 64]")]
    assert params["params"] == [("lr", "0.1"), ("limit", "null"), *learner, ("long", "x" * 500)]
    assert [(key, value, step) for key, value, _, step in metrics["metrics"]] == [
        ("steps", 8.0, 8),
        ("a/b", 0.5, 8),
        ("odd_ name", 1.0, 8),
    ]
    assert there.made("set_terminated") == [(("abc123",), {})]
    MLflow().build(LoggedRun("env", folder, 8))
    assert Client.last.made("update_run") == [(("abc123",), {"status": "RUNNING"})]
    assert not Client.last.made("create_run")
    (folder / "mlflow" / "run-id").write_text("../../x")
    MLflow(name="two").build(LoggedRun("env", folder, 8))
    assert Client.last.made("create_run") == [(("7",), {"run_name": "two"})]

    def refuse(self, **how):
        raise RuntimeError("no such\nserver")

    monkeypatch.setattr(Client, "__init__", refuse)
    with pytest.raises(ConfigError, match=r"could not be begun there \(no such server\); say where: MLflow\(uri="):
        MLflow().build(LoggedRun("env"))
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    with pytest.raises(ConfigError, match=r"MLflow is not installed: pip install 'marl-system\[mlflow\]'"):
        MLflow().build(LoggedRun("env"))


# --- all of them ------------------------------------------------------------------------------------------------------


def rows_of_tensorboard(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    rows = {}
    for name in events.Tags()["scalars"]:
        for event in events.Scalars(name):
            rows.setdefault(event.step, {"steps": event.step})[name] = event.value
    return [rows[step] for step in sorted(rows)]


def records_of_wandb(data):
    """Records of a LevelDB log with a head of seven bytes: blocks of 32 KiB, in them pieces of records."""
    at, record = 7, b""
    while at + 7 <= len(data):
        if 32_768 - at % 32_768 < 7:  # the rest of a block is empty
            at += 32_768 - at % 32_768
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or its last piece
            yield record
            record = b""


def rows_of_wandb(folder):
    """Of the file that an offline run leaves. Another process writes it, to its end a moment after the run's."""
    from wandb.proto import wandb_internal_pb2

    (file,) = Path(folder).glob("offline-run-*/*.wandb")
    kinds, until = [], time.monotonic() + 60
    while "exit" not in kinds:
        assert time.monotonic() < until, f"{file} has no end, only {kinds}"
        records = [wandb_internal_pb2.Record.FromString(data) for data in records_of_wandb(file.read_bytes())]
        kinds = [record.WhichOneof("record_type") for record in records]
    rows = []
    for record in records:
        items = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        if items:
            rows.append({name: value for name, value in items.items() if not name.startswith("_")})
    return rows


def rows_of_csv(file):
    return [{name: float(cell) for name, cell in row.items() if cell} for row in table(file)]


def rows_of_mlflow(_):
    from mlflow.tracking import MlflowClient

    client = MlflowClient()  # where MLFLOW_TRACKING_URI says
    (run,) = client.search_runs([client.get_experiment_by_name("marl").experiment_id])
    assert run.info.status == "FINISHED"
    rows = {}
    for name in run.data.metrics:
        for one in client.get_metric_history(run.info.run_id, name):
            rows.setdefault(one.step, {})[name] = one.value
    return [rows[step] for step in sorted(rows)]


READERS = {"tensorboard": rows_of_tensorboard, "wandb": rows_of_wandb, "mlflow": rows_of_mlflow}


@pytest.mark.parametrize("package", READERS)
def test_the_same_run_has_equal_numbers_in_all_logs(package, tmp_path, monkeypatch):
    reason = f"{package} is not installed; MLflow's 117 MB are no part of the extra test"
    pytest.importorskip(package, reason=reason)
    folder = tmp_path / "run"
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path / 'store'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    agents = marl.ippo(rollout=8, minibatches=1)
    with marl.MultiAgentSystem(agents, Constant, num_envs=1) as system, Run(folder, note=pytest.fail) as run:
        run.begin({})
        logged = LoggedRun("constant", folder, None, {}, pytest.fail)
        run.sinks.extend(begin(logger_named(name), logged) for name in ("csv", package))
        system.train(steps=64, log_every=16, watcher=run)
        run.end(system)
    rows = [{name: value for name, value in row.items() if math.isfinite(value)} for row in read_metrics(folder)]
    assert len(rows) == 4
    assert "mean_return" in rows[-1]
    assert rows_of_csv(folder / "metrics.csv") == rows
    found = READERS[package](folder / package)
    assert [row.keys() for row in found] == [row.keys() for row in rows]
    for one, other in zip(found, rows, strict=True):
        assert one == pytest.approx(other, rel=1e-6 if package == "tensorboard" else 0)  # events are in 32 bits


def test_loggers_without_a_folder_say_where_one_is_missing():
    for logger in (TensorBoard(), CSV()):
        if isinstance(logger, TensorBoard):
            pytest.importorskip("tensorboard")
        with pytest.raises(ConfigError, match="this run has no folder; say where to write"):
            logger.build(LoggedRun("env"))
