"""Train a character model with ``gru_ext.GRU`` on real text, and compare it with ``torch.nn.GRU``.

The model reads a text one character at a time and predicts the next one: embedding, GRU, linear. The text is cut into
B contiguous parts that are read side by side, T characters a training step. Each step starts from the states in which
the one before it ended, so that the model remembers further back than gradients flow (truncated backpropagation
through time). The last tenth of the text is kept for validation, in bits per character: what a compressor that asks
the model would need; guessing evenly among 100 characters costs 6.6.

Without ``--text`` it reads the language reference that every Python carries, about half a megabyte. Its topics quote
each other, so a few of the sentences it is validated on were in the training text.

A checkpoint holds everything the next step depends on: a run that was interrupted (Ctrl-C) and resumed on the same
machine gives the losses of an uninterrupted one, bit for bit.

Started by torchrun, each of its processes reads B / count of the parts, and together they take the steps of one
process. A checkpoint is that of one process: any number of them goes on from it. Where torchrun restarts them, after
one has died, they go on from the checkpoint in ``--out``, which all must see.

Letters: T steps, B batch, E embedding, H hidden, L layers, V vocabulary, N characters of a text.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import itertools
import math
import os
import shlex
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

import torch
from helpers.arguments import at_least, positive, usable_device
from helpers.many_processes import ALONE, Processes, ProcessLostError, join_processes
from torch import Tensor, nn
from tqdm import tqdm

import gru_ext

VALIDATION_SHARE = 0.1
GRADIENT_NORM = 1.0
SAMPLE_LENGTH = 300
SAMPLE_TEMPERATURE = 0.7

WARM_UP_STEPS = 5
BLOCK_STEPS = 5
# Two exact implementations round differently, and training amplifies the difference as it goes on: for tens of steps.
TOLERANCE = {"fp32": 1e-4, "bf16": 1e-2}

FORMAT = "gru_ext/examples/train_text 1"
# The parts of a checkpoint, besides its settings, and their types.
PARTS: dict[str, Any] = {
    "settings": dict,
    "text": str,
    "vocabulary": str,
    "step": int,
    "losses": list,
    "validation": list,
    "model": dict,
    "optimizer": dict,
    "state": Tensor,
    "rng": Tensor,
    "rng_cuda": Tensor | None,
}
SENTENCE = 300  # characters of a message, at most
# What a checkpoint was trained with, and cannot be continued without.
FIXED = ("hidden", "layers", "embedding", "batch", "steps_per_sequence", "learning_rate", "dtype", "seed")

Batch = tuple[Tensor, Tensor]


class UsageError(Exception):
    """Something the user can put right; the message is one sentence."""


@dataclass
class Settings:
    """The command line, typed; see ``parse_arguments`` for what each option means."""

    text: str | None
    hidden: int
    layers: int
    embedding: int
    batch: int
    steps_per_sequence: int
    epochs: int
    max_steps: int | None
    learning_rate: float
    seed: int
    dtype: str
    device: str
    threads: int | None
    compile: bool
    compare_steps: int
    checkpoint_every: int
    timeout: float
    out: str
    quiet: bool

    @property
    def checkpoint(self) -> Path:
        """Where the checkpoint goes."""
        return Path(self.out) / "checkpoint.pt"

    @property
    def plot(self) -> Path:
        """Where the loss curve goes."""
        return Path(self.out) / "loss.png"


class CharModel(nn.Module):
    """Embedding (V, E), a GRU of L layers of H units, and a linear layer (V, H) to the logits of the next character.

    Args:
        gru: the class of the recurrent layers, ``gru_ext.GRU`` or ``torch.nn.GRU``: everything else stays as it is.
        vocabulary: V.
        embedding: E.
        hidden: H.
        layers: L.
    """

    def __init__(self, gru: type[nn.Module], vocabulary: int, embedding: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.gru = gru(embedding, hidden, layers)
        self.linear = nn.Linear(hidden, vocabulary)
        self.state_size = (layers, hidden)

    def forward(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Read ``tokens`` (T, B) from ``state`` (L, B, H) on; give the logits (T, B, V) and the next state."""
        output, state = self.gru(self.embedding(tokens), state)
        return self.linear(output), state

    def initial_state(self, batch: int) -> Tensor:
        """The zero state (L, B, H) in which a text begins."""
        layers, hidden = self.state_size
        return self.linear.weight.new_zeros(layers, batch, hidden)


class Trainer:
    """A model with its optimizer and the state it carries from one batch to the next, of this process's share."""

    def __init__(self, gru: type[nn.Module], vocabulary: int, settings: Settings, processes: Processes = ALONE) -> None:
        self.model = CharModel(gru, vocabulary, settings.embedding, settings.hidden, settings.layers)
        self.model.to(settings.device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=settings.learning_rate)
        self.processes = processes
        self.batch = settings.batch // processes.count
        self.device = torch.device(settings.device)
        self.bf16 = settings.dtype == "bf16"
        replica = processes.replicate(self.model)
        self._forward: Callable[..., Any] = torch.compile(replica) if settings.compile else replica
        self.reset_state()

    def reset_state(self) -> None:
        """Forget what was read: the next batch is the beginning of the text."""
        self.state = self.model.initial_state(self.batch)

    def loss(self, batch: Batch, state: Tensor) -> tuple[Tensor, Tensor]:
        """The mean negative log-likelihood, in nats, of this process's share of a batch (two of (T, B)); and the state.

        ``state`` and the state after it: (L, B / count, H).
        """
        inputs, targets = map(self.processes.share, batch)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            logits, state = self._forward(inputs, state)
        return nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten()), state

    def step(self, batch: Batch) -> float:
        """Train on the batch (two of (T, B)) that follows the last one, and return its loss in nats."""
        loss, state = self.loss(batch, self.state)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), GRADIENT_NORM)
        self.optimizer.step()
        self.state = state.detach()
        return self.processes.mean(loss)

    def synchronize(self) -> None:
        """Wait for the device, so that the clock shows finished work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclass
class Progress:
    """How far training has come: the next step, which says where in the text it is, and what was measured so far."""

    step: int = 0
    losses: list[float] = field(default_factory=list)  # in nats, one a step
    validation: list[tuple[int, float]] = field(default_factory=list)  # (step, bits per character)
    characters_per_second: float | None = None  # of the steps of this process
    saved: int | None = None  # the step of the last checkpoint this process wrote


@dataclass
class Comparison:
    """The loss curves of the two GRUs from the same weights on the same batches, and the seconds of a step of each."""

    ours: list[float]
    theirs: list[float]
    our_seconds: float
    their_seconds: float

    @property
    def difference(self) -> float:
        """The largest relative difference between the two curves."""
        curves = torch.tensor([self.ours, self.theirs], dtype=torch.float64)
        return ((curves[0] - curves[1]) / curves[1]).abs().max().item()


def load_text(path: str | None) -> str:
    """The text of a file, or the language reference of this Python for None.

    Raises:
        UsageError: there is no such text, it is empty, or not UTF-8.
    """
    if path is None:
        try:
            from pydoc_data.topics import topics
        except ImportError as error:
            raise UsageError("this Python lacks its reference (pydoc_data): give a text with --text FILE") from error
        return "\n\n".join(topics.values())
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read the text {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"the text {path} is not UTF-8") from error
    if not text:
        raise UsageError(f"the text {path} is empty")
    return text


def encode(text: str, vocabulary: str) -> Tensor:
    """The places (N) in the vocabulary of the characters of a text."""
    index = {character: place for place, character in enumerate(vocabulary)}
    return torch.tensor([index[character] for character in text])


def cut_batches(tokens: Tensor, batch: int, steps: int) -> list[Batch]:
    """Cut a text (N) into B contiguous parts side by side, and these into steps of T characters.

    Returns:
        The batches in reading order: the characters (T, B), and those that follow them (T, B). Each batch goes on
        where the one before it stopped; what does not fill the last one is left out.
    """
    length = (len(tokens) - 1) // (batch * steps) * steps

    if length == 0:
        return []
    parts = (part[: batch * length].view(batch, length).T.contiguous() for part in (tokens[:-1], tokens[1:]))
    return list(zip(*(part.split(steps) for part in parts), strict=True))


def split_text(text: str, vocabulary: str, settings: Settings) -> tuple[list[Batch], list[Batch]]:
    """The batches of the training text and those of the validation text, its end, on the device.

    Raises:
        UsageError: the text does not fill one batch of each.
    """
    tokens = encode(text, vocabulary).to(settings.device)
    held_out = int(len(tokens) * VALIDATION_SHARE)
    training, validation = (
        cut_batches(part, settings.batch, settings.steps_per_sequence)
        for part in (tokens[: len(tokens) - held_out], tokens[len(tokens) - held_out :])
    )
    if not validation or not training:
        need = settings.batch * settings.steps_per_sequence + 1
        raise UsageError(
            f"the text is too short: a tenth of it, {held_out} characters, is kept for validation, which takes"
            f" --batch * --steps-per-sequence + 1 = {need}"
        )
    return training, validation


@torch.no_grad()
def evaluate(trainer: Trainer, batches: list[Batch]) -> float:
    """The bits per character the model needs for a text, read from its beginning."""
    state = trainer.model.initial_state(trainer.batch)
    total = 0.0
    for batch in batches:
        loss, state = trainer.loss(batch, state)
        total += trainer.processes.mean(loss)
    return total / len(batches) / math.log(2)


@torch.inference_mode()
def generate(model: CharModel, vocabulary: str, prompt: str, length: int, seed: int) -> str:
    """Let the model write on from a prompt, a character at a time.

    It draws from a generator of its own: a sample does not change the training around it.
    """
    device = model.linear.weight.device
    generator = torch.Generator().manual_seed(seed)
    tokens = encode(prompt, vocabulary).to(device).unsqueeze(1)  # (T, 1)
    state = model.initial_state(1)
    written = []
    for _ in range(length):
        logits, state = model(tokens, state)
        probabilities = torch.softmax(logits[-1, 0].float().cpu() / SAMPLE_TEMPERATURE, dim=0)  # (V)
        token = torch.multinomial(probabilities, 1, generator=generator)
        written.append(vocabulary[int(token)])
        tokens = token.to(device).unsqueeze(1)
    return prompt + "".join(written)


def save_checkpoint(trainer: Trainer, progress: Progress, vocabulary: str, text: str, settings: Settings) -> None:
    """Write all that training goes on from, in the first process; every process must call this.

    The file is replaced at once: whenever this is killed or fails, it is whole.

    Raises:
        OSError: it cannot be written, as where the disk is full.
    """
    state = trainer.processes.gather(trainer.state)
    if not trainer.processes.first:
        progress.saved = progress.step
        return
    checkpoint = {
        "format": FORMAT,
        "settings": asdict(settings),
        "text": fingerprint(text),
        "vocabulary": vocabulary,
        "step": progress.step,
        "losses": progress.losses,
        "validation": progress.validation,
        "model": trainer.model.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "state": state,
        "rng": torch.get_rng_state(),
        "rng_cuda": torch.cuda.get_rng_state(trainer.device) if trainer.device.type == "cuda" else None,
    }
    content = io.BytesIO()
    torch.save(checkpoint, content)
    write(settings.checkpoint, content.getbuffer())
    progress.saved = progress.step


def write(path: Path, content: bytes | memoryview) -> None:
    """Replace a file at once.

    Raises:
        OSError: it cannot be written; what stood there is as it was.
    """
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def load_checkpoint(path: str) -> dict[str, Any]:
    """The contents of a checkpoint, its tensors on the CPU.

    Raises:
        UsageError: there is no such file, it is none of this program's, or a part of it is missing or of a wrong type.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UsageError(f"cannot read the checkpoint {path}: {error.strerror}") from error
    except Exception as error:  # what torch.load raises on a file of something else depends on its bytes
        raise UsageError(f"{path} is not a checkpoint of this program") from error
    if not isinstance(checkpoint, dict) or checkpoint.get("format") != FORMAT:
        raise UsageError(f"{path} is not a checkpoint of this program")
    for place, kinds in ((checkpoint, PARTS), (checkpoint.get("settings"), get_type_hints(Settings))):
        for name, kind in kinds.items():
            if not isinstance(place, dict) or name not in place:
                raise UsageError(f"the checkpoint {path} is damaged: it has no {name}")
            if not isinstance(place[name], int | float if kind is float else kind):
                raise UsageError(f"the checkpoint {path} is damaged: its {name} is {place[name]!r}"[:SENTENCE])
    if checkpoint["settings"]["dtype"] not in TOLERANCE:
        raise UsageError(f"the checkpoint {path} is damaged: its dtype is {checkpoint['settings']['dtype']!r}")
    steps, losses, validation = checkpoint["step"], checkpoint["losses"], checkpoint["validation"]
    curve = [value for pair in validation if isinstance(pair, tuple) and len(pair) == 2 for value in pair]
    numbers = all(isinstance(value, int | float) for value in [*losses, *curve])
    if steps < 0 or len(losses) != steps or len(curve) != 2 * len(validation) or not numbers:
        raise UsageError(f"the checkpoint {path} is damaged: its loss curves are not those of {steps} steps")
    return checkpoint


def restore(checkpoint: dict[str, Any], trainer: Trainer) -> Progress:
    """Put a trainer, and the random numbers, where a checkpoint left them.

    Raises:
        UsageError: the weights, the state or the random numbers are not those of such a model.
    """
    fresh = trainer.state.shape
    try:
        trainer.model.load_state_dict(checkpoint["model"])
        trainer.optimizer.load_state_dict(checkpoint["optimizer"])
        moments = trainer.optimizer.state.values() if checkpoint["step"] else ()
        if len(moments) != (len(list(trainer.model.parameters())) if checkpoint["step"] else 0):
            raise ValueError("the optimizer's state is not that of every parameter")
        for parameter, moment in trainer.optimizer.state.items():
            if not {"step", "exp_avg", "exp_avg_sq"} <= moment.keys() or moment["exp_avg"].shape != parameter.shape:
                raise ValueError("the optimizer's state is not that of the parameters")
        trainer.state = trainer.processes.share(checkpoint["state"].to(trainer.device)).contiguous()
        if trainer.state.shape != fresh:
            raise ValueError(f"expected a state of shape {tuple(fresh)}, got {tuple(trainer.state.shape)}")
        torch.set_rng_state(checkpoint["rng"])
        if trainer.device.type == "cuda" and checkpoint["rng_cuda"] is not None:
            torch.cuda.set_rng_state(checkpoint["rng_cuda"], trainer.device)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:SENTENCE]
        raise UsageError(f"the checkpoint is damaged: {reason or type(error).__name__}") from error
    return Progress(checkpoint["step"], checkpoint["losses"], checkpoint["validation"])


def fingerprint(text: str) -> str:
    """What tells one text from another."""
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C wait until the step under way is done; the second interrupts at once.

    Yields:
        Whether there was one.
    """
    interrupted = False

    def note(*_: object) -> None:
        nonlocal interrupted
        interrupted = True
        signal.signal(signal.SIGINT, previous)

    previous = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: interrupted
    finally:
        signal.signal(signal.SIGINT, previous)


def train(
    trainer: Trainer,
    progress: Progress,
    training: list[Batch],
    validation: list[Batch],
    settings: Settings,
    save: Callable[[], None],
) -> None:
    """Train up to the last step that is asked for, and note in ``progress`` what came of it.

    Calls ``save`` every ``settings.checkpoint_every`` steps and at the end.

    Raises:
        KeyboardInterrupt: on Ctrl-C, after the step under way and a last ``save``.
    """
    total = count_steps(training, settings)
    characters = settings.batch * settings.steps_per_sequence
    start, seconds = progress.step, 0.0
    with (
        deferred_interrupt() as interrupted,
        tqdm(
            total=total * characters,
            initial=start * characters,
            unit="char",
            unit_scale=True,
            disable=settings.quiet,
        ) as bar,
    ):
        if not progress.validation:
            progress.validation.append((0, evaluate(trainer, validation)))
        stopped = False
        while progress.step < total and not stopped:
            began = time.perf_counter()
            epoch, index = divmod(progress.step, len(training))
            if index == 0:
                trainer.reset_state()
            progress.losses.append(trainer.step(training[index]))
            progress.step += 1
            trainer.synchronize()
            seconds += time.perf_counter() - began

            bar.set_description(f"epoch {epoch + 1}", refresh=False)
            bar.set_postfix(loss=f"{progress.losses[-1]:.3f}", refresh=False)
            bar.update(characters)
            if index == len(training) - 1 or progress.step == total:
                bits = evaluate(trainer, validation)
                progress.validation.append((progress.step, bits))
                if not settings.quiet:
                    tqdm.write(f"epoch {epoch + 1}, step {progress.step}: {bits:.3f} bits per character in validation")
            stopped = trainer.processes.any(interrupted(), trainer.device)
            if progress.step % settings.checkpoint_every == 0:
                save()
        save()
        if stopped:
            raise KeyboardInterrupt
    if progress.step > start:
        progress.characters_per_second = (progress.step - start) * characters / seconds


def count_steps(training: list[Batch], settings: Settings) -> int:
    """The steps of the whole run."""
    steps = settings.epochs * len(training)
    return steps if settings.max_steps is None else min(steps, settings.max_steps)


def plot(progress: Progress, path: Path) -> bool:
    """Draw the training and validation curves, in bits per character; False where matplotlib is not installed.

    Raises:
        OSError: the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    bits = [loss / math.log(2) for loss in progress.losses]
    axes.plot(range(1, len(bits) + 1), bits, linewidth=0.8, label="training")
    axes.plot(*zip(*progress.validation, strict=True), marker="o", linestyle="none", label="validation")
    axes.set(xlabel="step", ylabel="bits per character", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=150, format="png")
    write(path, drawn.getvalue())
    return True


def compare(vocabulary: int, training: list[Batch], settings: Settings, processes: Processes) -> Comparison:
    """Train a fresh pair of models, one with each GRU, from the same weights on the same batches.

    They take turns in blocks of a few steps, so that whatever else the machine does slows both. The first steps warm
    up: they count for the loss curves and not for the times, which are the medians over the blocks.
    """
    torch.manual_seed(settings.seed)
    pair = [Trainer(gru, vocabulary, settings, processes) for gru in (gru_ext.GRU, nn.GRU)]
    pair[1].model.load_state_dict(pair[0].model.state_dict())
    losses: tuple[list[float], list[float]] = ([], [])
    seconds: tuple[list[float], list[float]] = ([], [])
    steps = WARM_UP_STEPS + settings.compare_steps
    bounds = [0, *range(WARM_UP_STEPS, steps, BLOCK_STEPS), steps]
    for first, last in itertools.pairwise(bounds):
        for which, trainer in enumerate(pair):
            began = time.perf_counter()
            for step in range(first, last):
                if step % len(training) == 0:
                    trainer.reset_state()
                losses[which].append(trainer.step(training[step % len(training)]))
            trainer.synchronize()
            if first > 0:
                seconds[which].append((time.perf_counter() - began) / (last - first))
    return Comparison(*losses, statistics.median(seconds[0]), statistics.median(seconds[1]))


def report(progress: Progress, comparison: Comparison | None, settings: Settings) -> bool:
    """Print what training came to; False where the two loss curves differ too much, or a file could not be written."""
    before, after = progress.validation[0][1], progress.validation[-1][1]
    print(f"validation: {before:.3f} bits per character before training, {after:.3f} after {progress.step} steps")
    if progress.characters_per_second is not None:
        print(f"speed: {progress.characters_per_second:,.0f} characters/s")
    agree = True
    if comparison is not None:
        difference, tolerance = comparison.difference, TOLERANCE[settings.dtype]
        agree = difference <= tolerance
        characters = settings.batch * settings.steps_per_sequence
        print(
            f"beside torch.nn.GRU: {comparison.their_seconds / comparison.our_seconds:.2f} times its speed"
            f" ({characters / comparison.our_seconds:,.0f} against {characters / comparison.their_seconds:,.0f}"
            " characters/s)"
        )
        print(
            f"loss curves: the two {'agree' if agree else 'do NOT agree'} over {len(comparison.ours)} steps; the"
            f" largest relative difference is {difference:.1e} (tolerance for {settings.dtype}: {tolerance:g})"
        )
    if progress.saved == progress.step:
        print(f"written: {settings.checkpoint}")
    try:
        if plot(progress, settings.plot):
            print(f"written: {settings.plot}")
        else:
            print("no loss curve, as matplotlib is not installed")
    except OSError as error:
        print(f"cannot write {settings.plot}: {error.strerror}", file=sys.stderr)
        return False
    return agree and progress.saved == progress.step


def run(settings: Settings, checkpoint: dict[str, Any] | None, processes: Processes) -> int:
    """Train, sample, compare and report; the exit code.

    Raises:
        UsageError: the text, the checkpoint or the folder for the results will not do.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    text = load_text(settings.text)
    if settings.batch % processes.count:
        raise UsageError(f"--batch {settings.batch} cannot be shared by {processes.count} processes: give a multiple")
    if checkpoint is not None and checkpoint["text"] != fingerprint(text):
        raise UsageError("the text is not the one the checkpoint was trained on: give that with --text FILE")
    vocabulary = "".join(sorted(set(text))) if checkpoint is None else checkpoint["vocabulary"]
    if set(vocabulary) != set(text):
        raise UsageError("the checkpoint is damaged: its vocabulary is not that of the text")
    training, validation = split_text(text, vocabulary, settings)
    try:
        Path(settings.out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder {settings.out}: {error.strerror}") from error

    trainer = Trainer(gru_ext.GRU, len(vocabulary), settings, processes)
    progress = Progress() if checkpoint is None else restore(checkpoint, trainer)

    def show_sample(when: str) -> None:
        if not settings.quiet:
            sample = generate(trainer.model, vocabulary, text[:1], SAMPLE_LENGTH, settings.seed)
            print(f"--- a sample {when} training ---\n{sample}\n---", flush=True)

    def save() -> None:
        try:
            save_checkpoint(trainer, progress, vocabulary, text, settings)
        except OSError as error:  # training goes on: there may be room at the next
            tqdm.write(f"cannot write the checkpoint {settings.checkpoint}: {error.strerror}", file=sys.stderr)

    if not settings.quiet:
        parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
        print(f"{len(text):,} characters, {len(vocabulary)} different ones; a model of {parameters:,} parameters")
    try:
        if processes.count > 1:
            save()  # so that what a restart finds in --out is of this run
        if progress.step == 0:
            show_sample("before")
        train(trainer, progress, training, validation, settings, save)
        show_sample("after")
        comparison = compare(len(vocabulary), training, settings, processes) if settings.compare_steps else None
        return 0 if not processes.first or report(progress, comparison, settings) else 1
    except KeyboardInterrupt:
        if not processes.first:
            return 130
        if progress.saved is None:
            print("interrupted; nothing was saved")
        else:
            command = shlex.join(["python", sys.argv[0], "--resume", str(settings.checkpoint)])
            print(f"interrupted; step {progress.saved} is saved in {settings.checkpoint}; go on with: {command}")
        return 130


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Train a character model with gru_ext.GRU on real text, and compare it with torch.nn.GRU.",
        epilog="Exit codes: 0, 1 where the two loss curves do not agree or a file could not be written, 2 for a bad"
        " argument, 130 after Ctrl-C; 1 too where another process of torchrun's is lost.",
        usage="%(prog)s [options]",
    )
    parser.add_argument("--text", metavar="FILE", help="UTF-8 text to learn; without, the Python language reference")
    parser.add_argument("--resume", metavar="CHECKPOINT", help="go on from a checkpoint; its options are the defaults")
    parser.add_argument(
        "--out",
        metavar="DIR",
        default="out/train_text",
        help="folder for checkpoint.pt and loss.png (default: %(default)s)",
    )

    def add(name: str, metavar: str, kind: Callable[[str], float], default: float, meaning: str) -> None:
        group.add_argument(name, metavar=metavar, type=kind, default=default, help=f"{meaning} (default: %(default)s)")

    group = parser.add_argument_group("model")
    add("--hidden", "H", at_least(1), 256, "units of a GRU layer")
    add("--layers", "L", at_least(1), 2, "GRU layers")
    add("--embedding", "E", at_least(1), 64, "size of the vector a character becomes")

    group = parser.add_argument_group("training")
    add("--batch", "B", at_least(1), 32, "parts of the text that are read side by side")
    add("--steps-per-sequence", "T", at_least(1), 64, "characters of each part in a training step")
    add("--epochs", "N", at_least(0), 3, "times the text is read")
    group.add_argument("--max-steps", metavar="N", type=at_least(0), help="stop after N training steps, resumed or not")
    add("--learning-rate", "X", positive, 3e-3, "learning rate of Adam")
    add("--seed", "N", at_least(0), 0, "seed of the weights and of the samples")
    group.add_argument(
        "--dtype", choices=tuple(TOLERANCE), default="fp32", help="bf16: autocast over fp32 parameters (default: fp32)"
    )
    add("--checkpoint-every", "N", at_least(1), 200, "training steps from one checkpoint to the next")

    group = parser.add_argument_group("running")
    group.add_argument(
        "--device", type=usable_device, default="cpu", help="where to compute, cpu or cuda (default: %(default)s)"
    )
    group.add_argument("--threads", metavar="N", type=at_least(1), help="CPU threads; without, PyTorch's choice")
    group.add_argument("--compile", action="store_true", help="use torch.compile (which leaves torch.nn.GRU as it is)")
    add("--compare-steps", "N", at_least(0), 40, "training steps to time beside torch.nn.GRU, 0 for none")
    group.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=positive,
        default=300.0,
        help="of torchrun's processes: how long to wait for one that does not answer (default: %(default)g)",
    )
    group.add_argument("--quiet", action="store_true", help="print the summary only")
    return parser


def parse_arguments(arguments: Sequence[str] | None) -> tuple[Settings, dict[str, Any] | None]:
    """The settings, and the checkpoint to resume: its settings are then the defaults.

    Raises:
        UsageError: the checkpoint cannot be read, or was trained with something else than is asked for.
    """
    parser = make_parser()
    resume: str | None = parser.parse_args(arguments).resume
    checkpoint = None if resume is None else load_checkpoint(resume)
    if checkpoint is not None:
        # Numbers as text, which the parser checks as it does those of the command line.
        kept = checkpoint["settings"].items()
        numbers = {name: str(value) for name, value in kept if type(value) in (int, float)}
        parser.set_defaults(**{**checkpoint["settings"], **numbers})
    options = parser.parse_args(arguments)
    settings = Settings(**{f.name: getattr(options, f.name) for f in fields(Settings)})
    if checkpoint is not None:
        for name in FIXED:
            saved, asked = checkpoint["settings"][name], getattr(settings, name)
            if saved != asked:
                option = name.replace("_", "-")
                raise UsageError(f"the checkpoint was trained with --{option} {saved}, not {asked}")
    return settings, checkpoint


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        settings, checkpoint = parse_arguments(arguments)
        with join_processes(settings.device, settings.timeout) as processes:
            if processes.restarted and settings.checkpoint.exists():
                settings, checkpoint = parse_arguments([*arguments, f"--resume={settings.checkpoint}"])
            settings.quiet |= not processes.first
            return run(settings, checkpoint, processes)
    except UsageError as error:
        make_parser().error(str(error))
    except ProcessLostError as error:
        print(f"{error}; go on with: --resume {settings.checkpoint}", file=sys.stderr, flush=True)
        os._exit(1)  # at once: threads of torch.distributed may still wait for the lost process


if __name__ == "__main__":
    sys.exit(main())
