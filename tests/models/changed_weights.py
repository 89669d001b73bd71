"""Ways to change the weights of a model."""

from __future__ import annotations

import copy

import torch

from small_model import images

BLOCKS = 5


def run(model, x):
    with torch.no_grad():
        return model(x)


def fresh(model, x):
    """What the model gives with nothing remembered: a copy's caches are empty."""
    return run(copy.deepcopy(model), x)


def check_that_a_change_is_seen(model, change):
    """Outputs after a change are others than before, and those of a model made of the weights."""
    x = images()
    before = run(model, x)
    change(model)
    after = run(model, x)
    assert not torch.allclose(after, before)
    assert torch.equal(after, fresh(model, x))


def change_by_optimiser_in_evaluation_mode(model):
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    model(images()).square().sum().backward()
    optimiser.step()


def change_by_loading(model):
    model.load_state_dict({name: 0.5 * x for name, x in model.state_dict().items()})


def change_by_assigning(model):
    state = {name: 0.5 * x for name, x in model.state_dict().items()}
    model.load_state_dict(state, assign=True)


def change_in_place(model):
    with torch.no_grad():
        model.block1[0].attn.cpb_fc2.bias.add_(1.0)


def change_under_inference_mode(model):
    with torch.inference_mode():
        model.block3[1].attn.cpb_fc1.weight.mul_(2.0)


def change_packed_weights_in_place(model):
    with torch.no_grad():
        for name in ("attn.kv.weight", "attn.norm.bias", "mlp.fc2.weight"):
            model.block1[0].get_parameter(name).mul_(1.5)


def change_data_pointer(model):
    weight = model.block2[0].attn.cpb_fc1.weight
    for _ in range(3):  # the memory of the first may come back as that of the third
        weight.data = weight.data * 1.5


def change_parameter_object(model):
    layer = model.block4[0].attn.cpb_fc2
    layer.weight = torch.nn.Parameter(layer.weight.detach() * 2)


def change_through_data(model):
    """A mean teacher, a target network."""
    for parameter in model.parameters():
        parameter.data.mul_(0.9).add_(torch.ones_like(parameter), alpha=0.01)


def change_the_epsilon_of_a_norm(model):
    model.block2[0].norm1.eps = 1.0


CHANGES_THAT_VERSIONS_SHOW = [
    change_by_optimiser_in_evaluation_mode,
    change_in_place,
    change_under_inference_mode,
    change_packed_weights_in_place,
    change_data_pointer,
    change_parameter_object,
    change_the_epsilon_of_a_norm,
]
