"""The programs in examples/: what they print, write and refuse."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import math
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from compare import assert_same_bits
from process import ROOT, fork_python, output_of

pytest.importorskip("tqdm", reason="the examples extra is not installed")
EXAMPLES = ROOT / "examples"
sys.path.insert(0, str(EXAMPLES))
train_text = importlib.import_module("train_text")

TEXT = "The gates decide what the state keeps, and what it forgets.\n" * 40
SMALL = ["--quiet", "--hidden=16", "--embedding=8", "--batch=4", "--steps-per-sequence=16", "--compare-steps=0"]

Train = Callable[..., int]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture
def train(text: Path) -> Train:
    """Run the program on the small text; options given here override those of the small model."""

    def run(out: Path, *options: str) -> int:
        code: int = train_text.main([*SMALL, f"--text={text}", f"--out={out}", *options])
        return code

    return run


def saved(out: Path) -> dict[str, Any]:
    checkpoint: dict[str, Any] = train_text.load_checkpoint(str(out / "checkpoint.pt"))
    return checkpoint


@pytest.fixture(autouse=True)
def _as_from_a_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Under the program's name; and with Ctrl-C, which shells have their background jobs ignore."""
    monkeypatch.setattr(sys, "argv", ["train_text.py"])
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt_at(step: int, monkeypatch: pytest.MonkeyPatch, presses: int = 1) -> None:
    """Have Ctrl-C pressed so many times in the middle of that training step, counted from 1."""
    original, steps = train_text.Trainer.step, itertools.count(1)

    def interrupted(trainer: Any, batch: Any) -> Any:
        if next(steps) == step:
            for _ in range(presses):
                signal.raise_signal(signal.SIGINT)
        return original(trainer, batch)

    monkeypatch.setattr(train_text.Trainer, "step", interrupted)


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence with which the program refuses its arguments."""
    with pytest.raises(SystemExit) as exit_info:
        train_text.main(arguments)
    assert exit_info.value.code == 2
    usage, message = capsys.readouterr().err.splitlines()
    assert usage == "usage: train_text.py [options]"
    return message.removeprefix("train_text.py: error: ")


def run_example(name: str, *options: str) -> str:
    """What a program prints that runs as a user runs it, but on one thread and with warnings as errors."""
    return output_of(fork_python("-W", "error", EXAMPLES / name, *options))


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_training_learns_says_so_and_draws_it(
    dtype: str, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="the examples extra is not installed")
    assert train(tmp_path, "--epochs=2", f"--dtype={dtype}", "--learning-rate=0.01") == 0
    checkpoint = saved(tmp_path)
    losses = checkpoint["losses"]
    assert checkpoint["step"] == len(losses) == 2 * (len(TEXT) * 9 // 10 // 64)
    assert losses[-1] < 0.7 * losses[0]
    (first, before), *_, (last, after) = checkpoint["validation"]
    assert (first, last) == (0, len(losses))
    assert after < 0.7 * before
    printed = capsys.readouterr().out
    assert f"{before:.3f} bits per character before training, {after:.3f} after {len(losses)} steps" in printed
    assert str(tmp_path / "loss.png") in printed
    image = (tmp_path / "loss.png").read_bytes()
    assert image.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(image) > 1000


def test_training_does_without_matplotlib(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert train(tmp_path, "--max-steps=2") == 0
    assert "no loss curve, as matplotlib is not installed" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"text.txt", "checkpoint.pt"}


def test_samples_and_progress_are_shown_unless_quiet(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [option for option in SMALL if option != "--quiet"]
    assert train_text.main([*options, f"--text={text}", f"--out={tmp_path}", "--max-steps=2"]) == 0
    printed = capsys.readouterr()
    assert "a sample before training" in printed.out
    assert "a sample after training" in printed.out
    assert re.search(r"char/s, loss=\d\.\d{3}", printed.err)


def test_sample_does_not_change_training() -> None:
    settings, _ = train_text.parse_arguments(SMALL)
    vocabulary = "".join(sorted(set(TEXT)))
    model = train_text.Trainer(train_text.gru_ext.GRU, len(vocabulary), settings).model
    before = torch.get_rng_state()
    sample = train_text.generate(model, vocabulary, "The", 20, seed=3)
    assert sample.startswith("The")
    assert len(sample) == 23
    assert sample == train_text.generate(model, vocabulary, "The", 20, seed=3)
    assert torch.equal(before, torch.get_rng_state())


def test_batches_follow_each_other_through_the_text() -> None:
    batches = train_text.cut_batches(torch.arange(32), batch=2, steps=5)
    inputs = torch.cat([batch[0] for batch in batches])
    targets = torch.cat([batch[1] for batch in batches])
    assert [batch[0].shape for batch in batches] == [(5, 2)] * 3
    assert inputs.T.tolist() == [list(range(15)), list(range(15, 30))]
    assert torch.equal(targets, inputs + 1)


@pytest.mark.parametrize("stop", [5, 34], ids=["first epoch", "second epoch"])
def test_resumed_training_is_exact(stop: int, train: Train, tmp_path: Path) -> None:
    whole, parts, moved = tmp_path / "whole", tmp_path / "parts", tmp_path / "moved"
    assert train(whole, "--epochs=2", "--max-steps=40") == 0
    assert train(parts, "--epochs=2", f"--max-steps={stop}") == 0
    assert train_text.main([f"--resume={parts / 'checkpoint.pt'}", "--max-steps=40", f"--out={moved}"]) == 0
    assert len(saved(parts)["losses"]) == stop
    expected, resumed = saved(whole), saved(moved)
    assert resumed["losses"] == expected["losses"]
    assert resumed["validation"][-1] == expected["validation"][-1]
    assert_same_bits(resumed["model"], expected["model"], "model")


def test_interrupted_training_is_saved_and_resumed_exactly(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(whole, "--max-steps=20") == 0
    capsys.readouterr()
    with monkeypatch.context() as patch:
        interrupt_at(7, patch)
        assert train(parts, "--max-steps=20") == 130
    checkpoint = parts / "checkpoint.pt"
    assert capsys.readouterr().out == (
        f"interrupted; step 7 is saved in {checkpoint}; go on with: python train_text.py --resume {checkpoint}\n"
    )
    assert saved(parts)["losses"] == saved(whole)["losses"][:7]
    assert train_text.main(["--resume", str(checkpoint)]) == 0
    assert saved(parts)["losses"] == saved(whole)["losses"]
    assert saved(parts)["validation"] == saved(whole)["validation"]


def test_second_interrupt_does_not_wait(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt_at(3, monkeypatch, presses=2)
    assert train(tmp_path, "--checkpoint-every=2") == 130
    assert capsys.readouterr().out.startswith("interrupted; step 2 is saved")
    assert len(saved(tmp_path)["losses"]) == 2


def test_interrupt_before_the_first_step_says_that_nothing_is_saved(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt_at(1, monkeypatch, presses=2)
    assert train(tmp_path) == 130
    assert capsys.readouterr().out == "interrupted; nothing was saved\n"


FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")


@FULL
def test_a_full_disk_loses_neither_the_run_nor_the_last_checkpoint(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path, "--max-steps=3") == 0
    (tmp_path / "checkpoint.tmp").symlink_to("/dev/full")
    capsys.readouterr()
    assert train(tmp_path, "--max-steps=5", "--checkpoint-every=4") == 0
    printed = capsys.readouterr()
    assert printed.err == f"cannot write the checkpoint {tmp_path}/checkpoint.pt: No space left on device\n"
    assert "after 5 steps" in printed.out
    # What was half written is gone, and so is the link: there was room again at the last step.
    assert len(saved(tmp_path)["losses"]) == 5
    assert not (tmp_path / "checkpoint.tmp").exists()


@FULL
def test_a_full_disk_at_the_last_step_and_at_the_plot(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path, "--max-steps=3") == 0
    for name in ("checkpoint.tmp", "loss.tmp"):
        (tmp_path / name).symlink_to("/dev/full")
    capsys.readouterr()
    plot = (tmp_path / "loss.png").read_bytes()
    assert train(tmp_path, "--max-steps=4") == 1
    assert capsys.readouterr().err.splitlines() == [
        f"cannot write the checkpoint {tmp_path}/checkpoint.pt: No space left on device",
        f"cannot write {tmp_path}/loss.png: No space left on device",
    ]
    assert len(saved(tmp_path)["losses"]) == 3
    assert (tmp_path / "loss.png").read_bytes() == plot


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_loss_curves_agree_with_the_framework(
    dtype: str, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path, "--max-steps=0", "--compare-steps=12", f"--dtype={dtype}") == 0
    printed = capsys.readouterr().out
    assert re.search(r"^beside torch\.nn\.GRU: \d+\.\d\d times its speed", printed, re.MULTILINE)
    assert "loss curves: the two agree over 17 steps; the largest relative difference is " in printed


@pytest.mark.parametrize("wrong", [2.5, math.nan])
def test_loss_curves_that_do_not_agree_fail(
    wrong: float, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compare = train_text.compare

    def compare_wrongly(*arguments: Any) -> Any:
        comparison = compare(*arguments)
        comparison.ours[-1] = wrong
        return comparison

    monkeypatch.setattr(train_text, "compare", compare_wrongly)
    assert train(tmp_path, "--max-steps=0", "--compare-steps=1") == 1
    assert "loss curves: the two do NOT agree over 6 steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read the text {path}: No such file or directory"),
        (b"", "the text {path} is empty"),
        (b"\xff\xfe\xff", "the text {path} is not UTF-8"),
        (b"abc" * 200, "the text is too short: a tenth of it, 60 characters, is kept for validation, which takes"),
    ],
    ids=["missing", "empty", "not text", "too short"],
)
def test_unusable_text_is_refused(
    content: bytes | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "text"
    if content is not None:
        path.write_bytes(content)
    out = tmp_path / "out"
    assert refusal([*SMALL, f"--text={path}", f"--out={out}"], capsys).startswith(message.format(path=path))
    assert not out.exists()


def damages(checkpoint: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A checkpoint without each of its parts, and with each of a wrong kind; by what is damaged."""
    for name in checkpoint:
        if name == "format":
            continue
        yield f"no {name}", {key: value for key, value in checkpoint.items() if key != name}
        wrong: list[Any] = ["x" if name not in ("text", "vocabulary") else 1, {}, [1.0], torch.zeros(2)]
        for value in wrong:
            if name == "rng_cuda" and isinstance(value, torch.Tensor):
                continue  # of no use on a CPU
            if type(value) is not type(checkpoint[name]) or name in ("model", "optimizer", "settings", "state", "rng"):
                yield f"{name}: {value!r}", {**checkpoint, name: value}
    for name in checkpoint["settings"]:
        rest = {key: value for key, value in checkpoint["settings"].items() if key != name}
        yield f"no setting {name}", {**checkpoint, "settings": rest}
        yield f"setting {name}", {**checkpoint, "settings": {**rest, name: [1]}}
    for name in ("hidden", "batch", "learning_rate", "dtype", "device"):
        bad = "fp99" if name in ("dtype", "device") else -1
        yield f"setting {name}: {bad}", {**checkpoint, "settings": {**checkpoint["settings"], name: bad}}
    state = checkpoint["optimizer"]["state"]
    moments = {
        key: {name: value for name, value in moment.items() if name != "exp_avg"} for key, moment in state.items()
    }
    yield "no exp_avg", {**checkpoint, "optimizer": {**checkpoint["optimizer"], "state": moments}}
    yield "no moments", {**checkpoint, "optimizer": {**checkpoint["optimizer"], "state": {}}}
    yield "vocabulary", {**checkpoint, "vocabulary": checkpoint["vocabulary"][:-1] + "#"}


def test_a_damaged_checkpoint_is_one_sentence(train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path, "--max-steps=1") == 0
    capsys.readouterr()
    whole, path = saved(tmp_path), tmp_path / "damaged.pt"
    sentence = r"error: .*(damaged|expected|trained with|this PyTorch cannot|not the one)"
    for what, damaged in damages(whole):
        torch.save(damaged, path)
        with pytest.raises(SystemExit) as caught:
            train(tmp_path, f"--resume={path}", "--max-steps=2")
        printed = capsys.readouterr().err
        assert caught.value.code == 2, what
        assert re.search(sentence, printed), (what, printed)
        assert "Traceback" not in printed, what


def test_checkpoint_of_other_options_or_text_is_refused(
    train: Train, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path, "--max-steps=1") == 0
    capsys.readouterr()
    resume = f"--resume={tmp_path / 'checkpoint.pt'}"
    assert refusal([resume, "--hidden=8"], capsys) == "the checkpoint was trained with --hidden 16, not 8"
    text.write_text(TEXT.upper(), encoding="utf-8")
    assert refusal([resume], capsys).startswith("the text is not the one the checkpoint was trained on")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--hidden=0", "argument --hidden: expected a whole number of at least 1, got 0"),
        ("--epochs=-1", "argument --epochs: expected a whole number of at least 0, got -1"),
        ("--batch=many", "argument --batch: expected a whole number of at least 1, got many"),
        ("--learning-rate=nan", "argument --learning-rate: expected a number above 0, got nan"),
        ("--device=nowhere", "argument --device: this PyTorch cannot use the device nowhere"),
        ("--out={text}", "cannot make the folder {text}: File exists"),
        ("--resume={missing}", "cannot read the checkpoint {missing}: No such file or directory"),
        ("--resume={text}", "{text} is not a checkpoint of this program"),
        ("--resume={weights}", "{weights} is not a checkpoint of this program"),
    ],
)
def test_bad_option_is_refused(
    option: str, message: str, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = {"text": text, "missing": tmp_path / "missing.pt", "weights": tmp_path / "weights.pt"}
    torch.save({"weight": torch.zeros(2)}, paths["weights"])
    assert refusal([*SMALL, f"--text={text}", option.format(**paths)], capsys) == message.format(**paths)


def test_default_text_fits_the_default_settings() -> None:
    text = train_text.load_text(None)
    settings, checkpoint = train_text.parse_arguments([])
    assert checkpoint is None
    training, validation = train_text.split_text(text, "".join(sorted(set(text))), settings)
    assert len(training) > len(validation) > 0


NEEDS = {
    "classify_sequences": ["sklearn"],
    "train_for_int8": ["sklearn"],
    "with_accelerate": ["accelerate", "safetensors"],
    "with_lightning": ["lightning"],
}


def program(name: str) -> Any:
    """The module of a program, if what it needs is installed."""
    for package in NEEDS.get(name, []):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what Lightning imports
        return importlib.import_module(name)


@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*.py")))
def test_every_program_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        program(name).main(["--help"])
    assert exit_info.value.code == 0
    assert len(re.findall(r"^  --", capsys.readouterr().out, re.MULTILINE)) > 0


def test_every_program_is_in_the_list_of_examples() -> None:
    listed = re.findall(r"^\| \[(\w+)\.py\]", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(path.stem for path in EXAMPLES.glob("*.py"))


def test_the_first_example_is_short_and_learns(tmp_path: Path) -> None:
    assert len((EXAMPLES / "first.py").read_text().splitlines()) <= 60
    printed = run_example("first.py", "--updates=300", f"--out={tmp_path / 'adder.pt'}")
    errors = [float(error) for error in re.findall(r"mean square error (\S+)", printed)]
    assert errors[-1] < errors[0] / 5
    (difference,) = re.findall(r"the sums differ by (\S+) at most", printed)
    assert float(difference) < 1e-5


@pytest.mark.parametrize("name", ["with_accelerate", "with_lightning"])
def test_training_programs_of_others(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--updates=200", *([f"--out={tmp_path / 'adder.safetensors'}"] if name == "with_accelerate" else [])]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's, of data loaders without workers
        program(name).main(options)
    error = re.search(r"mean square error ([\d.]+)", printed := capsys.readouterr().out)
    assert error is not None
    assert float(error[1]) < 0.2
    assert name != "with_accelerate" or "gives the same model" in printed


def test_classify_sequences() -> None:
    pytest.importorskip("sklearn", reason="the examples extra is not installed")
    printed = run_example("classify_sequences.py", "--epochs=3", "--hidden=32")
    accuracy = re.search(r"^test accuracy: (0\.\d{4})$", printed, re.MULTILINE)
    assert accuracy is not None, printed
    assert float(accuracy[1]) > 0.6  # by chance: 0.1


def test_train_for_int8() -> None:
    pytest.importorskip("sklearn", reason="the examples extra is not installed")
    printed = run_example("train_for_int8.py", "--epochs=6", "--more=1", "--hidden=16")
    accuracies = [float(accuracy) for accuracy in re.findall(r": +(\d\.\d{4})", printed)]
    assert len(accuracies) == 3, printed
    assert min(accuracies) > 0.2  # by chance: 0.1
    assert max(accuracies) - min(accuracies) < 0.2


def test_recurrent_policy() -> None:
    printed = run_example("recurrent_policy.py", "--updates=60")
    right = re.search(r"^right turns, of the first tenth of the updates: ([\d.]+)%; of the last: ([\d.]+)%$", printed)
    assert right is not None, printed
    assert float(right[1]) < 75  # by chance: 50
    assert float(right[2]) > 95


def test_world_model() -> None:
    printed = run_example("world_model.py", "--hidden=32", "--blocks=4", "--width=16", "--steps=150", "--length=40")
    (guess, _), *models = re.findall(r" (\d\.\d{4}) under the roof, (\d\.\d{4}) beside it", printed)
    sizes = re.findall(r"^(\d+) units, (\d) blocks?, (\d+) parameters", printed, re.MULTILINE)
    assert [(units, blocks) for units, blocks, _ in sizes[::2]] == [("32", "4"), ("32", "1")]
    assert int(sizes[1][0]) < 32
    assert abs(int(sizes[1][2]) - int(sizes[0][2])) < 0.05 * int(sizes[0][2])
    assert len(models) == 3
    assert all(float(hidden) < float(guess) for hidden, _ in models), printed


def test_stream() -> None:
    printed = run_example("stream.py")
    assert re.search(r"^GRU: \d+ microseconds a step; differs by \S+ at most", printed, re.MULTILINE)
    assert re.search(r"^GRUCell: \d+ microseconds a step; differs by \S+ at most", printed, re.MULTILINE)
