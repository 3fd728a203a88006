"""All task tokens in one pass give what Algorithm 1 gives with one pass a task token."""

from typing import Any

import pytest
import torch

from tests.modeling_dytox import oracle
from tests.modeling_dytox.small import RANGES, VARIANTS, changed, every_backend, every_variant, make_images, make_model


MODELS: list[dict[str, Any]] = [
    {"class_ranges": RANGES[:1]},
    {"class_ranges": [[2 * step, 2 * step + 2] for step in range(10)]},
    {"num_task_attention_layers": 3},
    {"image_size": [8, 20], "num_task_attention_layers": 2},
    {"image_size": [12, 8], "patch_size": [3, 2], "num_channels": 1},
    *({"class_ranges": RANGES, "num_task_attention_layers": 2} | switches for switches in VARIANTS),
]


@every_backend
@pytest.mark.parametrize("encoder_attention", ["gated", "plain"])
@pytest.mark.parametrize("options", MODELS, ids=str)
def test_one_pass_equals_a_pass_a_task_token(options: dict[str, Any], encoder_attention: str, backend: str) -> None:
    model = make_model(**options, encoder_attention=encoder_attention, attn_implementation=backend)
    images = make_images(model.config)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        model, images = model.to(dtype), images.to(dtype)
        with torch.no_grad():
            outputs = model(images)
            embeddings = torch.stack(oracle.task_embeddings(model.state_dict(), model.config, images), dim=1)
            logits = oracle.logits(model.state_dict(), model.config, images)
        torch.testing.assert_close(outputs.task_embeddings, embeddings, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(outputs.logits, logits, rtol=tolerance, atol=tolerance)


@every_variant
def test_every_parameter_takes_part(switches: dict[str, bool]) -> None:
    model = make_model(class_ranges=RANGES, **switches)
    images = make_images(model.config)
    model(images, labels=torch.arange(len(images))).loss.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_in_the_first_step_the_switches_change_nothing() -> None:
    models = [make_model(class_ranges=RANGES[:1], **switches) for switches in VARIANTS]
    assert not any(changed(model, models[0].state_dict()) for model in models)
    with torch.no_grad():
        first, *others = [model(make_images(model.config)).logits for model in models]
    assert all(torch.equal(logits, first) for logits in others)


def test_images_of_another_size_are_refused() -> None:
    model = make_model()
    for shape in [(1, 3, 12, 16), (1, 1, 12, 12), (3, 12, 12)]:
        with pytest.raises(ValueError, match=r"expected \(batch_size, 3, 12, 12\)"):
            model(torch.zeros(shape))
