import pytest
import torch
from torch import nn

from luthier.core.errors import UserError
from luthier.recipe.finetune import plan, split_in_order
from luthier.recipe.models import CNN, MLP, Transformer


class Net(nn.Module):
    """Three groups: stem with its norm, two blocks in a Sequential, a head of two layers."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 4))
        self.stem = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.body = nn.Sequential(
            nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout()), nn.Dropout(), nn.Linear(4, 4)
        )
        self.head = nn.Sequential(nn.Dropout(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))

    def forward(self, x):
        return self.head(self.body(self.norm(self.stem(x) + self.token)))


def named(model, split):
    names = {id(p): name for name, p in model.named_parameters()}
    return [{names[id(p)] for p in group} for group in split]


def test_groups_follow_the_model_from_input_to_head():
    model = Net()
    assert named(model, split_in_order(model)) == [
        {"token", "stem.weight", "stem.bias", "norm.weight", "norm.bias"},
        {"body.0.0.weight", "body.0.0.bias", "body.0.1.weight", "body.0.1.bias"},
        {"body.2.weight", "body.2.bias"},
        {"head.1.weight", "head.1.bias", "head.3.weight", "head.3.bias"},
    ]


@pytest.mark.parametrize(
    ("model", "groups"),
    [
        (MLP(5, 3, 2, 8, 0.1), 3),  # a wrapper around a Sequential is opened
        (CNN(1, 8, 10, 3, 8, 0.0), 4),  # three blocks, the head
        (Transformer(7, 1, 4, 7, 3, 8, 2, 0.0, 0.0), 6),  # tokens, positions, three blocks, the head
        (nn.Linear(3, 2), 1),
        (nn.Sequential(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))), 2),
    ],
)
def test_every_parameter_is_in_one_group(model, groups):
    split = split_in_order(model)
    assert len(split) == groups
    assert sorted(id(p) for group in split for p in group) == sorted(map(id, model.parameters()))
    assert next(reversed(list(model.parameters()))) is split[-1][-1]


def test_groups_by_prefix_module_or_function_are_the_same():
    model = Net()
    by_prefix = split_in_order(model, [["token", "stem", "norm"], "body", "head."])
    by_module = split_in_order(model, [[model.token, model.stem, model.norm], model.body, model.head])
    by_function = split_in_order(model, lambda net: [[net.token, net.stem, net.norm], net.body, net.head])
    assert named(model, by_prefix) == named(model, by_module) == named(model, by_function)
    assert named(model, split_in_order(model, by_prefix)) == named(model, by_prefix)
    assert len(by_prefix) == 3


def test_a_prefix_ends_at_a_dot():
    model = nn.Sequential(*[nn.Linear(2, 2) for _ in range(11)])
    split = split_in_order(model, ["1", [str(i) for i in (0, *range(2, 11))]])
    assert named(model, split)[0] == {"1.weight", "1.bias"}


def test_a_shared_parameter_is_in_the_first_group_that_has_it():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5))
    model[1].weight = model[0].weight
    # What is left of the head is a vector, which belongs to the group before it.
    assert named(model, split_in_order(model)) == [{"0.weight", "1.bias"}]
    assert named(model, split_in_order(model, [model[0], model[1]])) == [{"0.weight"}, {"1.bias"}]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["stem", "body", "head"], "In no group: token, norm.weight, norm.bias"),
        (["stem"], "and 10 more"),
        (["sten", "body", "head"], "'sten' adds no trainable parameter. Did you mean 'stem'"),
        (["head", "head"], "'head' adds no"),
        ([3], "A group is a int"),
    ],
)
def test_groups_that_do_not_fit_are_said(groups, message):
    with pytest.raises(UserError, match=message):
        split_in_order(Net(), groups)


def test_a_model_with_nothing_to_train_is_said():
    with pytest.raises(UserError, match="no trainable parameters"):
        split_in_order(nn.Flatten())


FOUR = nn.Sequential(*[nn.Linear(2, 2) for _ in range(4)])


def schedule(max_epochs, **knobs):
    made = plan(FOUR, None, knobs, max_epochs)
    return [sorted(made.trainable(epoch)) for epoch in range(1, max_epochs + 1)]


ALL, HEAD = [0, 1, 2, 3], [3]


@pytest.mark.parametrize(
    ("max_epochs", "knobs", "expected"),
    [
        (3, {}, [ALL] * 3),
        (3, {"finetune": "full", "head_epochs": 2}, [ALL] * 3),
        (3, {"finetune": "head"}, [HEAD] * 3),
        (3, {"finetune": "head_then_full"}, [HEAD, ALL, ALL]),
        (4, {"finetune": "head_then_full", "head_epochs": 3}, [HEAD] * 3 + [ALL]),
        (3, {"finetune": "head_then_full", "head_epochs": 9}, [HEAD, HEAD, ALL]),
        (1, {"finetune": "head_then_full"}, [ALL]),
        (12, {"finetune": "gradual"}, [HEAD] * 2 + [[2, 3]] * 2 + [[1, 2, 3]] * 2 + [ALL] * 6),
        (6, {"finetune": "gradual"}, [HEAD, [2, 3], [1, 2, 3], ALL, ALL, ALL]),
        (2, {"finetune": "gradual"}, [HEAD, ALL]),
    ],
)
def test_which_groups_train_when(max_epochs, knobs, expected):
    assert schedule(max_epochs, **knobs) == expected


@pytest.mark.parametrize("max_epochs", range(2, 40))
def test_gradual_unfreezing_is_even_monotone_and_done_by_half(max_epochs):
    counts = [len(groups) for groups in schedule(max_epochs, finetune="gradual")]
    assert counts == sorted(counts)
    assert counts[0] == 1
    assert set(counts[(max_epochs + 1) // 2 :]) == {4}
    lengths = [counts.count(k) for k in (1, 2, 3)]
    assert max(lengths) - min(lengths) <= 1


def test_multipliers_decay_from_the_head_down():
    made = plan(FOUR, None, {"layer_decay": 0.5}, 3)
    assert [made.multiplier(group) for group in range(4)] == [0.125, 0.25, 0.5, 1.0]
    assert plan(FOUR, None, {}, 3).multiplier(0) == 1.0


@pytest.mark.parametrize(
    ("model", "knobs", "message"),
    [
        (FOUR, {"finetune": "heads"}, "Did you mean 'head'"),
        (FOUR, {"layer_decay": 0.0}, r"layer_decay=0.0 is not in \(0, 1\]"),
        (FOUR, {"head_epochs": 0}, "head_epochs=0"),
        (nn.Linear(2, 2), {"finetune": "head"}, "needs a body and a head"),
    ],
)
def test_what_cannot_be_is_said(model, knobs, message):
    with pytest.raises(UserError, match=message):
        plan(model, None, knobs, 3)


def test_frozen_groups_neither_learn_nor_count_statistics_and_the_head_does():
    model = Net()
    made = plan(model, None, {"finetune": "head"}, 2)
    optimizer = torch.optim.AdamW(model.parameters(), 0.1, weight_decay=0.5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for epoch in (1, 2):
        model.train()
        made.apply(model, epoch)
        optimizer.zero_grad()
        model(torch.randn(16, 3) + 5.0).square().mean().backward()
        optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"head.1.weight", "head.1.bias", "head.3.weight", "head.3.bias"}


def test_a_gradient_from_before_a_group_was_frozen_moves_nothing():
    model = Net()
    made = plan(model, None, {"finetune": "head"}, 2)
    model(torch.randn(16, 3)).square().mean().backward()
    made.apply(model, 1)
    assert model.stem.weight.grad is None
    assert model.head[1].weight.grad is not None


def test_what_is_frozen_is_in_evaluation_mode_and_what_is_not_is_not():
    model = Net()
    made = plan(model, None, {"finetune": "head_then_full"}, 3)
    model.train()
    made.apply(model, 1)
    modes = {name: module.training for name, module in model.named_modules()}
    assert not any(modes[name] for name in ("stem", "norm", "body", "body.0.1", "body.0.2", "body.1", "body.2"))
    assert all(modes[name] for name in ("", "head", "head.0", "head.1", "head.3"))
    model.train()
    made.apply(model, 2)
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad for p in model.parameters())


def test_dropout_goes_with_the_layer_before_it():
    model = MLP(5, 3, 2, 8, 0.5)
    made = plan(model, None, {"finetune": "gradual"}, 4)
    model.train()
    made.apply(model, 2)
    assert [m.training for m in model.layers if isinstance(m, nn.Dropout)] == [False, True]


def test_what_the_user_froze_stays_frozen_and_is_in_no_group():
    model = Net()
    model.stem.requires_grad_(False)
    made = plan(model, None, {}, 2)
    model.train()
    made.apply(model, 1)
    assert not model.stem.weight.requires_grad
    assert model.norm.training
    assert sum(len(group) for group in made.groups) == len(list(model.parameters())) - 2
