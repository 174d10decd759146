"""Makes the demo model: tokenizer, training, evaluation, checkpoint.

    python deploy/demo-model/train.py            # all of it, on 2 cores
    python deploy/demo-model/train.py --evaluate # only asks the held-out questions again

Progress is by steps and every random choice is seeded, so a slow machine makes the same model as a
fast one of the same kind, only later.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from build_tokenizer import build_tokenizer
from corpus.documents import Document, Turn, documents, vary
from corpus.families import FAMILIES, INVENTED
from corpus.numbers import addition
from corpus.questions import Family
from released import new_model, released_tensors, save
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import Gemma4ForCausalLM

HERE = Path(__file__).resolve().parent
BOS, EOS = 2, 1
IGNORED = -100


@dataclass(frozen=True, slots=True)
class Training:
    """How long and how fast to learn."""

    num_steps: int = 800
    warmup_steps: int = 50
    batch_tokens: int = 3072
    sort_documents: int = 2048  # so many are sorted by length at a time, to pad little
    matrix_rate: float = 4e-3  # Muon
    vector_rate: float = 4e-3  # AdamW: embeddings, norms, layer scalars
    seed: int = 2
    num_threads: int = 2


class Encoder:
    """Documents to token ids and the ids to learn at each position."""

    def __init__(self, directory: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))

    def text(self, text: str) -> list[int]:
        """Ids of a text; markers count as markers."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def document(self, document: Document) -> tuple[list[int], list[int]]:
        """Ids and targets: what the model says in a chat, everything in a plain text."""
        if not document.turns:
            ids = [BOS, *self.text(document.text), EOS]
            return ids, [*ids[1:], IGNORED]
        ids, learned = [BOS], [False]
        for turn in document.turns:
            opening = self.text(f"<|turn>{turn.role}\n")
            said = self.text(f"{turn.text}<turn|>\n")
            ids += opening + said
            learned += [False] * len(opening) + [turn.role == "model"] * len(said)
        targets = [
            token if learns else IGNORED for token, learns in zip(ids[1:], learned[1:], strict=True)
        ]
        return ids, [*targets, IGNORED]


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of about the same length, padded on the right."""

    ids: torch.Tensor
    targets: torch.Tensor


def collate(rows: list[tuple[list[int], list[int]]]) -> Batch:
    """One tensor of rows that differ a little in length."""
    length = max(len(ids) for ids, _ in rows)
    return Batch(
        torch.tensor([ids + [0] * (length - len(ids)) for ids, _ in rows]),
        torch.tensor([targets + [IGNORED] * (length - len(targets)) for _, targets in rows]),
    )


def batches(encoder: Encoder, training: Training) -> Iterator[Batch]:
    """Batches without end, each of about `batch_tokens`."""
    rng = random.Random(training.seed)
    source = documents(training.seed)
    while True:
        rows = [encoder.document(d) for d in islice(source, training.sort_documents)]
        rows.sort(key=lambda row: len(row[0]))
        groups: list[list[tuple[list[int], list[int]]]] = [[]]
        for row in rows:
            if (len(groups[-1]) + 1) * len(row[0]) > training.batch_tokens:
                groups.append([])
            groups[-1].append(row)
        rng.shuffle(groups)
        yield from map(collate, groups)


def learned_logits(model: Gemma4ForCausalLM, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and targets of the positions that have one."""
    hidden = model.model(input_ids=batch.ids, use_cache=False).last_hidden_state
    kept = batch.targets != IGNORED
    cap = model.config.final_logit_softcapping
    logits = cap * torch.tanh(model.lm_head(hidden[kept]).float() / cap)
    return logits, batch.targets[kept]


def train(model: Gemma4ForCausalLM, encoder: Encoder, training: Training) -> None:
    """Muon for the layers' matrices, AdamW for the rest; the rate falls to zero by a cosine."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(
            matrices, lr=training.matrix_rate, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(others, lr=training.vector_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]

    def rate(step: int) -> float:
        warm = min(1.0, (step + 1) / training.warmup_steps)
        return warm * (0.5 + 0.5 * math.cos(math.pi * step / training.num_steps))

    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, rate) for optimizer in optimizers]
    sums = held_out_questions(addition, 100, new_phrasing=False, new_operands=True)
    model.train()
    start, losses = time.monotonic(), []
    for step, batch in enumerate(islice(batches(encoder, training), training.num_steps), 1):
        with torch.autocast("cpu", torch.bfloat16):
            logits, targets = learned_logits(model, batch)
        loss = F.cross_entropy(logits, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        losses.append(loss.item())
        if step % 50 == 0:
            seconds = time.monotonic() - start
            mean = sum(losses[-50:]) / 50
            print(f"step {step}/{training.num_steps}  loss {mean:.4f}  {seconds:.0f} s", flush=True)
        if step % 200 == 0:
            print(f"new sums that are right: {share_exact(model, encoder, sums):.0%}", flush=True)


@torch.no_grad()
def share_exact(model: Gemma4ForCausalLM, encoder: Encoder, asked: list[tuple[str, str]]) -> float:
    """The share of questions whose greedy answer is exactly the expected one.

    One pass per question tells: greedy decoding gives the expected ids if and only if each of them
    is the most likely one after those before it.
    """
    right = 0
    for question, answer in asked:
        turns = (Turn("user", question), Turn("model", answer))
        logits, targets = learned_logits(model, collate([encoder.document(Document(turns))]))
        said = (logits.argmax(-1) == targets)[:-1]  # but for the newline after the turn
        right += bool(said.all())
    return right / len(asked)


def held_out_questions(
    family: Family, count: int, *, new_phrasing: bool, new_operands: bool
) -> list[tuple[str, str]]:
    """Questions of a family that training has not shown; fewer where there are few."""
    rng = random.Random(3)
    found: dict[str, str] = {}
    for _ in range(4000):
        question = family(rng)
        if question.new_phrasing == new_phrasing and question.new_operands == new_operands:
            found.setdefault(vary(question, rng), question.answer)
        if len(found) == count:
            break
    return list(found.items())


def evaluate(model: Gemma4ForCausalLM, encoder: Encoder, count: int = 100) -> None:
    """Prints a table: exact answers by family, for what training has seen and what it has not."""
    model.eval()
    kinds = {"seen": (False, False), "new phrasing": (True, False), "new operands": (False, True)}
    sums: dict[str, list[float]] = defaultdict(list)
    print("| family | " + " | ".join(kinds) + " |\n|---|" + "---:|" * len(kinds))
    for family in FAMILIES:
        if family in INVENTED:
            continue
        cells = []
        for kind, (phrasing, operands) in kinds.items():
            asked = held_out_questions(family, count, new_phrasing=phrasing, new_operands=operands)
            if asked:
                share = share_exact(model, encoder, asked)
                sums[kind].append(share)
            cells.append(f"{share:.0%}" if asked else "–")
        print(f"| {family.__name__} | " + " | ".join(cells) + " |", flush=True)
    print("| **mean** | " + " | ".join(f"{sum(v) / len(v):.0%}" for v in sums.values()) + " |")


def load_released(model: Gemma4ForCausalLM, tensors: dict[str, torch.Tensor]) -> None:
    """Takes the weights that are served: by released names, rounded to bfloat16."""
    own = {
        name.replace("model.language_model.", "model.", 1): tensor.float()
        for name, tensor in tensors.items()
    }
    missing, _ = model.load_state_dict(own, strict=False)
    assert set(missing) <= {"lm_head.weight"}, missing


def main() -> None:
    """Trains and evaluates, or only evaluates."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--evaluate", action="store_true", help="evaluate the committed weights")
    parser.add_argument("--out", type=Path, default=HERE, help="directory of the checkpoint")
    parser.add_argument("--steps", type=int, default=Training().num_steps, help="optimizer steps")
    arguments = parser.parse_args()

    training = Training(num_steps=arguments.steps)
    torch.set_num_threads(training.num_threads)
    torch.manual_seed(training.seed)
    start = time.monotonic()
    model = new_model()
    if arguments.evaluate:
        encoder = Encoder(arguments.out)
        load_released(model, load_file(arguments.out / "model.safetensors"))
    else:
        build_tokenizer(arguments.out)
        encoder = Encoder(arguments.out)
        train(model, encoder, training)
        save(model, arguments.out)
        print(f"trained in {(time.monotonic() - start) / 60:.1f} minutes")
        load_released(model, released_tensors(model))
    evaluate(model, encoder)


if __name__ == "__main__":
    main()
