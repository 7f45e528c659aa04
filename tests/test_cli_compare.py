"""`rmtland compare`: every option acts, seen in the numbers it writes and in what it prints."""

import contextlib
import functools
import io
import json
import re
import sys

import cloudpickle
import numpy as np
import pytest
from rich.console import Console

import rmtland as rl
from rmtland.cli.compare import (
    STAGES,
    default_workers,
    in_parts,
    parse_rungs,
    parse_stages,
    print_comparison,
    print_rungs,
    print_scores,
)
from rmtland.cli.networks import DEEP_PER_CLASS, epochs_or_default, fewer_for_deep
from rmtland.comparison import reporting
from rmtland.comparison.result import RUNGS, Comparison
from rmtland.comparison.workers import Workers
from tests import oracles
from tests.test_cli_train import invoke

pytestmark = pytest.mark.usefixtures("blank_figures")
BASE = ["--per-class", "3", "--hidden", "4", "--examples", "12", "--epochs", "2", "--draws", "2", "--rungs", "b,g"]


def compare(folder, *options):
    shown = invoke("compare", *BASE, *options, "--out", folder)
    return json.loads((folder / "comparison.json").read_text()), shown


@pytest.fixture(scope="module")
def base(tmp_path_factory, blank_figures):
    return compare(tmp_path_factory.mktemp("base"))


def numbers(written, stage="end of training"):
    """What a stage says, without what it was asked for."""
    return json.dumps(written["stages"][stage])


def test_what_is_printed(base):
    written, shown = base
    assert "0.41(1): mean and standard deviation over draws, or an estimate and its error" in shown
    assert "(b) G  (g) full model" in shown
    assert "(a)" not in shown
    assert "…" not in shown  # nothing cut off in 80 columns
    assert list(written["stages"]["mid training"]["rungs"]) == ["gauss_newton", "full_model"]
    assert written["settings"]["rungs"] == ["gauss_newton", "full_model"]
    value = written["stages"]["end of training"]["rungs"]["gauss_newton"]["quantities"]["trace"]["mean"]
    line = next(line for line in shown.split("end of training")[1].splitlines() if line.strip().startswith("trace "))
    assert line.split()[1] == f"{value:.3g}"


@pytest.mark.parametrize(
    "options",
    [["--seed", "1"], ["--examples", "14"], ["--epochs", "3"], ["--learning-rate", "0.01"], ["--batch-size", "10"],
     ["--hidden", "5"], ["--width", "2"], ["--per-class", "4"], ["--draws", "3"],
     ["--rungs", "full_model, b"], ["--data", "clusters"]],
    ids=lambda options: options[0],
)  # fmt: skip
def test_every_option_acts(base, tmp_path, options):
    written, _ = compare(tmp_path, *options, "--stages", "end")
    if options[0] == "--rungs":  # by name, in any order: the same
        assert numbers(written) == numbers(base[0])
    else:
        assert numbers(written) != numbers(base[0])


@pytest.mark.slow  # processes that import everything
def test_workers_change_no_number(base, tmp_path):
    written, shown = compare(tmp_path, "--workers", "2")
    assert written["stages"] == base[0]["stages"]
    assert shown.split("Written")[0] == base[1].split("Written")[0]


def test_workers_are_given_the_rungs_of_each_stage(base, tmp_path, monkeypatch):
    """As many as asked for, and not this process, which stands in for them here."""
    given = []

    class Here(Workers):
        def __init__(self, count, modules=()):
            self.count = count

        def __exit__(self, *_):
            given.append("ended")

        def run(self, function, tasks, told):
            given.append((self.count, [(name, rungs) for name, _, _, rungs, *_ in tasks]))
            copies = [cloudpickle.loads(cloudpickle.dumps(task)) for task in tasks]
            return [function(*task, told=told) for task in copies]

    monkeypatch.setattr("rmtland.comparison.workers.Workers", Here)
    written, _ = compare(tmp_path, "--workers", "3")
    shares = [(stage, (rung,)) for stage in STAGES for rung in ("gauss_newton", "full_model")]
    assert given == [(3, shares), "ended"]
    assert written["stages"] == base[0]["stages"]


def test_one_worker_is_this_process(tmp_path, monkeypatch):
    def started(*_):
        raise AssertionError

    monkeypatch.setattr("rmtland.comparison.workers.Workers", started)
    written, _ = compare(tmp_path, "--workers", "1", "--stages", "initialisation", "--rungs", "b")
    assert list(written["stages"]) == ["initialisation"]


class Bars:
    """A progress bar that keeps what it is told."""

    def __init__(self):
        self.totals, self.done = {}, {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def add_task(self, name, total):
        self.totals[name] = total
        return name

    def update(self, task, completed, **_):
        self.done[task] = completed


class WithoutFigures(Comparison):
    def plot(self):
        return {}


def wired(monkeypatch, folder, *options):
    """What the command gives to training and measuring, and shows on a terminal; neither is done."""
    comparison = small_comparison()
    given = {"bars": Bars()}

    def train(dataset, **options):
        given["training"] = options
        return {}

    def measure(sources, **options):
        given["measuring"] = options
        return WithoutFigures(**vars(comparison))

    def default_workers(*of):
        given["workers of"] = of
        return 1

    class Started(contextlib.ExitStack):
        def __init__(self, count, modules):
            super().__init__()
            given["started"] = count

    module = sys.modules["rmtland.cli.compare"]
    monkeypatch.setattr(module, "progress_bar", lambda console, told: given["bars"])
    monkeypatch.setattr(module, "default_workers", default_workers)
    monkeypatch.setattr("rmtland.nets.training_stages", train)
    monkeypatch.setattr(sys.modules["rmtland.comparison.compare"], "compare", measure)
    monkeypatch.setattr("rmtland.comparison.workers.Workers", Started)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    given["shown"] = invoke("compare", *options, "--out", folder)
    return given


def test_what_training_and_measuring_are_given_by_default(tmp_path, monkeypatch):
    given = wired(monkeypatch, tmp_path)
    training, measuring = given["training"], given["measuring"]
    assert training["hidden"] == [16, 16]
    assert (training["num_examples"], training["epochs"], training["batch_size"]) == (300, 20, 32)
    assert given["workers of"] == ("mlp", 300 * 9)  # logit gradients that count, N (C - 1)
    assert "started" not in given
    settings = measuring["settings"]
    assert (settings["hidden"], settings["examples"], settings["epochs"]) == ("16,16", 300, 20)
    assert (measuring["num_products"], measuring["num_draws"], measuring["workers"]) == (300, 8, 1)
    # 1,797 digits are 57 steps of 32.
    bars = given["bars"]
    assert bars.totals == {"epochs over 1,797 examples": 20, "measuring": None}
    assert bars.done == {"epochs over 1,797 examples": 20}
    training["after_step"](57 * 5)
    measuring["progress"]("rung", 2, 9)
    assert bars.done == {"epochs over 1,797 examples": 5, "measuring": 2}
    # Bold and dim, and no numbers in colours.
    assert set(re.findall(r"\x1b\[([\d;]*)m", given["shown"])) <= {"0", "1", "2", "3"}
    plain = re.sub(r"\x1b\[[\d;]*m", "", given["shown"])
    assert " ".join(plain.split()).endswith(f"Written to {tmp_path}: comparison.json")


def test_what_training_and_measuring_are_given_when_told(tmp_path, monkeypatch):
    given = wired(
        monkeypatch, tmp_path, "--network", "cnn", "--examples", "20", "--workers", "2", "--batch-size", "100",
        "--per-class", "15",
    )  # fmt: skip
    assert given["started"] == 2
    assert given["measuring"]["settings"]["hidden"] is None
    assert given["measuring"]["settings"]["per_class"] == 15
    given["training"]["after_step"](3)
    assert given["bars"].done == {"epochs over 150 examples": 1.5}


def test_workers_by_default(monkeypatch):
    monkeypatch.setattr("joblib.cpu_count", lambda: 4)
    assert default_workers("mlp", 2700) == 4
    assert default_workers("mlp", 90) == 1  # they would take longer to start
    assert default_workers("resnet20", 2700) == 1  # a budget for graphs in each
    monkeypatch.setattr("joblib.cpu_count", lambda: 64)
    assert default_workers("cnn", 2700) == 6


def test_rules_for_outliers(tmp_path):
    counts = {}
    for rule in ("ratio", "gap", "elbow"):
        written, _ = compare(tmp_path / rule, "--outliers", rule, "--rungs", "b")
        rungs = [stage["rungs"]["gauss_newton"] for stage in written["stages"].values()]
        counts[rule] = [rung["quantities"]["num_outliers"]["mean"] for rung in rungs]
        expected = [
            rl.count_outliers([x for x in rung["eigenvalues"][0] if x is not None], rule, max_outliers=30)
            for rung in rungs
        ]
        assert counts[rule] == expected
    assert len({tuple(count) for count in counts.values()}) > 1


@pytest.mark.slow
def test_layers(base, tmp_path):
    written, shown = compare(tmp_path, "--by", "parameter_groups", "--stages", "mid,end")
    whole = written["stages"]["end of training"]
    assert numbers(written) == numbers(base[0])
    layers = {n.split(": ")[1]: s for n, s in written["stages"].items() if n.startswith("end of training: ")}
    assert list(layers) == ["1.weight", "1.bias", "3.weight", "3.bias"]
    assert sum(s["num_parameters"] for s in layers.values()) == whole["num_parameters"]
    # Diagonal blocks share out the trace.
    traces = [s["rungs"]["gauss_newton"]["quantities"]["trace"]["mean"] for s in layers.values()]
    assert sum(traces) == pytest.approx(whole["rungs"]["gauss_newton"]["quantities"]["trace"]["mean"], rel=1e-9)
    assert shown.count("layer by layer; eigenvalue and traces of (b)") == 2
    lines = shown.split("end of training, layer")[1].splitlines()
    rows = [i for i, line in enumerate(lines) if line.split()[:1] and line.split()[0] in layers]
    assert rows == list(range(rows[0], rows[0] + 4))  # one below the other
    line = lines[rows[3]]
    assert line.split()[1] == "10"
    assert f"{traces[3]:.3g}" in line.split()
    assert "…" not in shown


def test_products_of_a_large_hessian(tmp_path, monkeypatch):
    monkeypatch.setattr(reporting, "DENSE_LIMIT", 10)
    found = {}
    for name, options in (("default", []), ("few", ["--products", "60"])):
        written, shown = compare(tmp_path / name, "--rungs", "a", "--stages", "end", *options)
        found[name] = written["stages"]["end of training"]["rungs"]["hessian"]["quantities"]
        assert written["settings"]["num_products"] == (60 if options else 300)
    assert 0 < found["default"]["trace"]["error"] < found["few"]["trace"]["error"]
    trace, error = found["few"]["trace"]["mean"], found["few"]["trace"]["error"]
    assert rl.comparison.result.with_deviation(trace, error) in shown.split("end of training")[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rungs", "z"], r"`rungs` must be letters a to k or hessian, .*; got 'z'"),
        (["--rungs", ""], r"`rungs` must be letters a to k or hessian, .*; got ''"),
        (["--by", "layer"], "`by` must be one of None, 'parameter_groups'; got 'layer'"),
        (["--products", "39"], "`products` must be >= 40; got 39"),
    ],
)
def test_wrong_options(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        compare(tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_stages_are_chosen(base, tmp_path):
    written, shown = compare(tmp_path, "--stages", "end")
    assert list(written["stages"]) == written["settings"]["stages"] == ["end of training"]
    assert numbers(written) == numbers(base[0])
    assert "initialisation" not in shown
    assert list(base[0]["stages"]) == list(STAGES)


def test_stages_by_first_word_and_name():
    assert parse_stages(None) == STAGES
    assert parse_stages("end of training, mid") == STAGES[1:]
    with pytest.raises(ValueError, match="`stages` must be initialisation, mid, end, with commas between; got 'start'"):
        parse_stages("end,start")


def npz(path, num_classes):
    x = np.random.default_rng(num_classes).integers(0, 255, (60, 4, 4)).astype(np.uint8)
    y = np.arange(60) % num_classes
    np.savez(path, x_train=x, y_train=y, x_test=x[:6], y_test=y[:6])


SHORT = ["--examples", "12", "--epochs", "2", "--draws", "2", "--rungs", "b", "--stages", "initialisation"]


def sizes(folder, *options):
    """N, C and D of what was measured."""
    invoke("compare", *SHORT, *options, "--out", folder)
    stage = json.loads((folder / "comparison.json").read_text())["stages"]["initialisation"]
    return tuple(stage[f"num_{name}"] for name in ("examples", "classes", "parameters"))


def test_the_network_that_is_named(tmp_path):
    options = ["--per-class", "3", "--width", "0.1"]
    for name in ("cnn", "lenet"):
        module = rl.nets.build_network(name, (1, 8, 8), 10, width=0.1)
        count = sum(p.numel() for p in module.parameters())
        assert sizes(tmp_path / name, *options, "--network", name) == (12, 10, count)


def test_the_folder_where_data_are_looked_up(tmp_path, monkeypatch):
    for folder, num_classes in (("here", 3), ("there", 5)):
        (tmp_path / folder).mkdir()
        npz(tmp_path / folder / "mnist.npz", num_classes)
    monkeypatch.setenv("RMTLAND_DATA", str(tmp_path / "here"))
    options = ["--data", "mnist", "--hidden", "2"]
    assert sizes(tmp_path / "a", *options)[1] == 3
    assert sizes(tmp_path / "b", *options, "--data-folder", tmp_path / "there")[1] == 5


def test_data_are_fetched_only_when_asked_for(tmp_path, monkeypatch):
    fetched = []

    def fetch(name):
        fetched.append(name)
        x, y = np.random.default_rng(0).integers(0, 255, (60, 4, 4)).astype(np.uint8), np.arange(60) % 4
        return x, y, x[:8], y[:8]

    monkeypatch.setattr("rmtland.nets.datasets.fetch_openml", fetch)
    monkeypatch.delenv("RMTLAND_DATA", raising=False)
    options = ["--data", "fashion", "--hidden", "2"]
    with pytest.raises(FileNotFoundError, match="found none at fashion"):
        sizes(tmp_path / "a", *options)
    assert not fetched
    assert sizes(tmp_path / "b", *options, "--download")[1] == 4
    assert fetched == ["fashion"]


def test_rungs_by_letter_and_name():
    assert parse_rungs(None) == tuple(RUNGS)
    assert parse_rungs("e, hessian,b") == ("hessian", "gauss_newton", "class_means")


def test_epochs_by_default():
    assert epochs_or_default(None, "mlp", 1797, 32) == 20  # digits
    assert epochs_or_default(None, "mlp", 60_000, 32) == 3  # MNIST: 1,875 steps each
    assert epochs_or_default(None, "cnn", 10**7, 32) == 2
    assert epochs_or_default(None, "resnet20", 10_000, 32) == 5
    assert epochs_or_default(7, "resnet20", 10**9, 1) == 7


def test_a_deep_network_is_compared_on_fewer_examples(monkeypatch, tmp_path):
    count = 3 * (DEEP_PER_CLASS + 1)
    many = rl.nets.Dataset("x", np.zeros((count, 1, 1)), np.arange(count) % 3, np.zeros((0, 1, 1)), np.zeros(0, int))
    fewer, told = fewer_for_deep(many, "resnet20", 0)
    assert told == DEEP_PER_CLASS
    assert np.bincount(fewer.y_train).tolist() == 3 * [DEEP_PER_CLASS]
    assert fewer_for_deep(many, "cnn", 0) == (many, None)
    assert fewer_for_deep(fewer, "resnet20", 0) == (fewer, None)
    # What was taken is written, as whoever repeats it needs to know.
    monkeypatch.setattr("rmtland.cli.networks.DEEP_PER_CLASS", 5)
    module = sys.modules["rmtland.cli.compare"]  # `rmtland.cli` has a function of this name
    monkeypatch.setattr(module, "DEEP_EXAMPLES", 14)
    monkeypatch.setattr(module, "DEEP_PRODUCTS", 41)
    options = ["--network", "resnet20", "--width", "0.25", "--epochs", "2", "--draws", "2", "--rungs", "b"]
    invoke("compare", *options, "--stages", "end", "--out", tmp_path)
    settings = json.loads((tmp_path / "comparison.json").read_text())["settings"]
    assert [settings[name] for name in ("per_class", "examples", "num_products")] == [5, 14, 41]


def test_layers_without_a_measured_matrix():
    comparison = rl.compare(
        rl.LandscapeModel.fort_ganguli(num_examples=12, num_classes=3, num_parameters=20).sample(rng=0),
        rungs=["full_model"], num_draws=2, by="parameter_groups",
    )  # fmt: skip
    console = Console(width=80, record=True, file=io.StringIO())
    print_comparison(comparison, console)
    assert "layer by layer" in console.export_text()


@pytest.mark.slow
def test_every_rung_fits_the_terminal():
    comparison = rl.compare(
        rl.LandscapeModel.fort_ganguli(num_examples=12, num_classes=4, num_parameters=30).sample(rng=0), num_draws=2
    )
    console = Console(width=80, record=True, file=io.StringIO())
    print_comparison(comparison, console)
    shown = console.export_text()
    assert "\u2026" not in shown  # nothing cut off
    assert max(map(len, shown.splitlines())) <= 80
    legend, tables = shown.split("\nnetwork\n")
    for label in comparison.rung_labels.values():
        assert label in legend  # in one piece
        assert f" {label[:3]} " in tables
    # The ladder, what is beside it, and what the theory expects: no rung twice in a kind of table but (b) G.
    titles = [line.split() for line in tables.splitlines() if re.fullmatch(r"( *\([a-k]\))+ *", line)]
    told = ["".join(title) for title in titles]
    assert told == ["(b)(c)(d)(e)", "(b)(f)(g)", "(b)(h)(i)(j)(k)", "(e)(f)(g)(i)(j)", "(k)"]


@functools.cache
def small_comparison():
    source = rl.DenseLogitGradients(*oracles.examples(12, 3, 20))
    return rl.compare({"epoch 3": source}, rungs=["gauss_newton", "mean_gradients", "full_model"], num_draws=2)


def test_tables_of_a_stage():
    comparison = small_comparison()
    console = Console(width=80, record=True, file=io.StringIO())
    print_comparison(comparison, console)
    lines = console.export_text().splitlines()
    titles = [line.split() for line in lines if re.fullmatch(r"( *\([a-k]\))+ *", line)]
    assert titles == [["(b)", "(g)"], ["(b)", "(h)"], ["(g)"]]
    stage = comparison.stages["epoch 3"]
    for name, scores in stage.scores().items():
        (line,) = (line for line in lines if line.startswith(f" {RUNGS[name]} ") and "  (" not in line)
        values = list(scores.to_dict().values())
        told = [f"{v:{sign}.3f}".strip() for v, sign in zip(values[:5], " +++ ", strict=True) if v == v]
        assert line.removeprefix(f" {RUNGS[name]} ").split() == [*told, f"{values[5]:,.0f}"]
    assert any("beside (b) G" in line for line in lines)
    assert f"N=12 C=3 D=20, accuracy {stage.outputs.accuracy:.1%}, loss {stage.outputs.loss:.3g}" in "\n".join(lines)


def test_rows_stay_one_line_on_a_narrow_terminal():
    comparison = small_comparison()

    def count(width, show, *arguments):
        file = io.StringIO()
        show(*arguments, Console(width=width, file=file))
        return len([line for line in file.getvalue().splitlines() if line.strip()])

    rungs = ["gauss_newton", "full_model"]
    for width in (60, 50, 40, 34):
        tables = ((print_rungs, comparison.table()["epoch 3"], rungs), (print_scores, comparison.stages["epoch 3"]))
        for show, *arguments in tables:
            assert count(width, show, *arguments) == count(80, show, *arguments)


def test_parts_that_fit_a_table():
    assert in_parts("abcdefghi") == ["abcd", "efgh", "i"]
    assert in_parts("abcd", 5) == ["abcd"]
    assert in_parts("abcdef", 5) == ["abcde", "f"]
    assert in_parts("") == []


def test_numbers_of_layers_are_whole_whatever_the_layers_are_called():
    arrays = oracles.examples(12, 3, 20)
    groups = {f"{k}: " + "a very long name of a layer " * 3: slice(10 * k, 10 * k + 10) for k in (0, 1)}
    source = rl.DenseLogitGradients(*arrays, parameter_groups=groups)
    comparison = rl.compare(source, rungs=["gauss_newton"], num_draws=2, by="parameter_groups")
    console = Console(width=80, record=True, file=io.StringIO())
    print_comparison(comparison, console)
    layers = console.export_text().split("layer by layer")[1].splitlines()
    assert "eigenvalue and traces of (b)" in layers[0]
    titles = ["D", "q_SLSC", "q_SL", "SNR", "top", "eigenvalue", "trace", "Trace/||.||_F"]
    assert any(line.split() == titles for line in layers)
    frame = comparison.table()
    for k, name in enumerate(groups):
        stage = f"network: {name}"
        (line,) = (line for line in layers if line.strip().startswith(f"{k}:"))
        rows = "top_eigenvalue", "trace", "goldilocks_ratio"
        told = [str(frame.loc[row, (stage, RUNGS["gauss_newton"])]) for row in rows]
        assert line.split()[-3:] == told
        assert f"{comparison.stages[stage].scales.snr:.3g}" in line.split()
