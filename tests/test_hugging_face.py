"""The page on Hugging Face's Trainer: its code runs, and does what a loop by hand does, in float64."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from prose import run_python
from torch import nn
from torch.utils.data import SequentialSampler

PAGE = Path(__file__).parents[1] / "docs" / "pages" / "hugging-face.md"


def by_hand(model: nn.Module, images: list[dict[str, Any]], alpha: float, clip: float) -> None:
    """Two updates, each of two parts of four images: backward, clip, AGR, SGD; the penalty by its definition."""
    for update in range(2):
        model.zero_grad()
        for part in range(2):
            rows = images[8 * update + 4 * part :][:4]
            x, y = torch.stack([row["pixel_values"] for row in rows]), torch.tensor([row["labels"] for row in rows])
            losses = [F.cross_entropy(model(view).logits, y) for view in (x, x.flip(3))]
            head = list(model.classifier.parameters())  # type: ignore[union-attr]
            one, other = (torch.autograd.grad(loss, head, create_graph=True) for loss in losses)
            penalty = torch.stack([(a - b).square().sum() for a, b in zip(one, other, strict=True)]).sum()
            ((losses[0] + losses[1] + alpha * penalty) / 2).backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        with torch.no_grad():
            for p in (p for p in model.parameters() if p.grad is not None):
                p -= 0.5 * p.grad * (1 - p.grad.abs() / p.grad.abs().sum().clamp(min=1e-300) * (p.numel() > 1))


def test_the_page_s_trainer_is_a_loop_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers", reason="transformers and accelerate are installed by the dev extra alone")
    monkeypatch.chdir(tmp_path)
    page: dict[str, Any] = run_python(PAGE.read_text(), tmp_path)
    assert page["trainer"].state.global_step == 3
    monkeypatch.setitem(page, "two_views", lambda x: [x, x.flip(3)])  # the page's functions look it up there
    torch.manual_seed(1)
    config = page["model"].config
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    models = [page["ViTForImageClassification"](config).double().train() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    images = [{"pixel_values": torch.randn(1, 8, 8, dtype=torch.float64), "labels": i % 3} for i in range(16)]
    options = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 2, "max_grad_norm": 0.3}
    optimizer = page["AGR"](torch.optim.SGD(models[0].parameters(), lr=0.5))
    trainer = page["GVRTrainer"](
        model=models[0],
        args=page["TrainingArguments"](**page["settings"], **options, lr_scheduler_type="constant"),
        train_dataset=images,
        optimizers=(optimizer, None),
        alpha=3.0,
    )
    monkeypatch.setattr(trainer, "_get_train_sampler", lambda *_: SequentialSampler(images))
    trainer.train()
    by_hand(models[1], images, 3.0, 0.3)
    for a, b in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
