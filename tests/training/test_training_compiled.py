"""What a training step computes is one graph for torch.compile: mixup, forward, loss, backward."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from transnext_models import create_model
from transnext_models.training.mixing import BatchMixer
from transnext_models.training.module import ClassifierModule
from transnext_models.training.recipes import get_recipe

MIXER = BatchMixer(mixup=0.8, cutmix=1.0, switch=0.5, smoothing=0.1, num_classes=5)


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def test_a_step_compiles_without_a_graph_break() -> None:
    """`fullgraph` makes a break an error; other numbers of mixup compile nothing anew."""
    torch.manual_seed(0)
    model = create_model("transnext_pico", num_classes=5, img_size=32, drop_path_rate=0.0).train()
    module = ClassifierModule(model, get_recipe("imagenet_224"), epochs=1)
    graphs = []

    def counted(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    def loss_of(images: torch.Tensor, labels: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        return module.training_step(MIXER(images, labels, numbers))

    compiled = torch.compile(loss_of, fullgraph=True, dynamic=False, backend=counted)
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 4])
    for numbers in ([0.7, 0.7, 0, 0, 0, 0], [0.75, 1.0, 8, 24, 0, 16]):
        found = []
        for step in (loss_of, compiled):
            model.zero_grad()
            loss = step(images, labels, torch.tensor(numbers))
            loss.backward()
            found.append([loss.detach(), *(parameter.grad for parameter in model.parameters())])
        torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)
    assert len(graphs) == 1
