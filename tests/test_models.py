import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset, TensorDataset

from luthier.core.errors import UserError
from luthier.recipe.data import prepare
from luthier.recipe.models import (
    CNN,
    DEFAULTS,
    DropPath,
    PointNet,
    Transformer,
    check_source,
    drop_path_rates,
    make_model,
)

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def always_the_same():
    torch.manual_seed(0)


def seeded(make, *args, seed=0, **kwargs):
    torch.manual_seed(seed)
    return make(*args, **kwargs)


def data(x, y, task="classification"):
    table = TensorDataset(x, y)
    return prepare(table, table, task)


LABELS = torch.arange(24) % 3
SHAPES = {"mlp": (24, 5), "cnn": (24, 2, 8, 8), "pointnet": (24, 10, 4), "transformer": (24, 6, 4)}
INPUTS = {name: torch.randn(shape, generator=torch.Generator().manual_seed(1)) for name, shape in SHAPES.items()}


@pytest.mark.parametrize("name", DEFAULTS)
@pytest.mark.parametrize(("task", "targets"), [("classification", LABELS), ("regression", torch.rand(24, 2))])
def test_every_model_fits_its_data_listens_to_its_knobs_and_trains(name, task, targets):
    own = data(INPUTS[name], targets, task)
    sizes = []
    for config in [{}, *({key: value * 2 + 1} for key, value in DEFAULTS[name].items() if key in ("depth", "width"))]:
        config = config | ({"heads": 1} if "heads" in DEFAULTS[name] else {})
        model = seeded(make_model, name, config, own, CPU).train()
        sizes.append(sum(p.numel() for p in model.parameters()))
        model(INPUTS[name][:4]).square().mean().backward()
        assert all(p.grad is not None for p in model.parameters())
    assert sizes[0] < min(sizes[1:])


@pytest.mark.parametrize("name", DEFAULTS)
def test_dropout_and_drop_path_are_at_work_in_training_alone(name):
    for knob in {"dropout", "drop_path"} & set(DEFAULTS[name]):
        model = seeded(make_model, name, {knob: 0.5}, data(INPUTS[name], LABELS), CPU)
        x = INPUTS[name]
        assert torch.equal(model.eval()(x), model(x))
        model.train()
        assert not torch.equal(model(x), model(x))
        plain = seeded(make_model, name, {knob: 0.0}, data(INPUTS[name], LABELS), CPU).train()
        assert torch.equal(plain(x), plain(x))


@pytest.mark.parametrize("name", ["pointnet", "transformer"])
def test_a_last_batch_of_one_sample_can_be_trained_on(name):
    model = make_model(name, {}, data(INPUTS[name], LABELS), CPU).train()
    assert torch.isfinite(model(INPUTS[name][:1])).all()


def test_the_mean_of_a_dropped_branch_stays_and_whole_samples_are_dropped():
    drop = DropPath(0.3)
    x = torch.ones(20000, 2, 3)
    out = seeded(drop, x)
    assert out.mean() == pytest.approx(1.0, abs=0.02)
    assert (out == 0).all((1, 2)).float().mean() == pytest.approx(0.3, abs=0.02)
    assert torch.equal(out, out[:, :1, :1].expand_as(out))
    assert drop.eval()(x) is x
    assert DropPath(0.0)(x) is x


def test_the_rate_of_stochastic_depth_rises_to_the_last_block():
    assert drop_path_rates(0.4, 4) == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert drop_path_rates(0.4, 0) == []
    transformer = Transformer(None, 3, 4, 2, 2, 8, 2, 0.0, 0.4)
    assert [block.drop_path.rate for block in transformer.blocks] == pytest.approx([0.2, 0.4])
    # Of these blocks the first widens and the third strides.
    cnn = CNN(1, 16, 10, 5, 8, 0.0, drop_path=0.4)
    strides = [block.conv.stride[0] for block in cnn.blocks]
    rates = [block.drop_path and block.drop_path.rate for block in cnn.blocks]
    assert [rate for rate, stride in zip(rates[1:], strides[1:]) if stride == 1] == pytest.approx([0.2, 0.4])
    assert rates[0] is None
    assert all(rate is None for rate, stride in zip(rates, strides) if stride == 2)


def test_without_drop_path_the_cnn_is_plain_convolution_norm_and_relu():
    cnn = seeded(CNN, 1, 8, 10, 3, 4, 0.0).eval()
    x = torch.randn(5, 1, 8, 8)
    out = x
    for i, block in enumerate(cnn.blocks):
        out = F.relu(block.norm(F.conv2d(out, block.conv.weight, stride=2 if i == 1 else 1, padding=1)))
    assert torch.equal(cnn(x), cnn.head(out.mean((2, 3))))


def test_with_drop_path_a_cnn_in_evaluation_mode_adds_the_blocks_input():
    cnn = seeded(CNN, 1, 4, 10, 2, 4, 0.0, drop_path=0.3).eval()
    block = cnn.blocks[1]
    x = torch.rand(5, 4, 4, 4)
    assert torch.equal(block(x), F.relu(block.norm(block.conv(x)) + x))


@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7])
@pytest.mark.parametrize("size", [3, 8, 17])
def test_the_size_of_the_kernel_does_not_change_the_size_of_the_map(kernel_size, size):
    x = torch.zeros(2, 3, size, size + 1)
    wide, usual = (CNN(3, size, 7, 4, 4, 0.0, kernel_size=k, drop_path=0.1) for k in (kernel_size, 3))
    assert wide.blocks(x).shape == usual.blocks(x).shape
    assert wide.blocks[0].conv.weight.shape[2:] == (kernel_size, kernel_size)


def test_the_order_of_points_does_not_matter_and_the_points_do():
    model = seeded(PointNet, 4, 3, 3, 16, 0.0).eval()
    x = INPUTS["pointnet"]
    order = torch.randperm(10)
    torch.testing.assert_close(model(x[:, order]), model(x))
    torch.testing.assert_close(model(torch.cat([x, x[:, :3]], 1)), model(x))  # nor does a point said twice
    assert not torch.allclose(model(x + 1.0), model(x))


def test_a_pointnet_learns_what_a_maximum_over_points_tells():
    x = torch.randn(64, 20, 3)
    y = (x[:, :, 2].amax(1) > x[:, :, 2].amax(1).median()).long()
    assert fitted(seeded(PointNet, 3, 2, 2, 16, 0.0), x, y) > 0.95


def fitted(model, x, y, steps=60):
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return float((model.eval()(x).argmax(1) == y).float().mean())


def language_model(**kwargs):
    return seeded(Transformer, 11, 1, 12, 11, 2, 16, 4, 0.0, 0.0, causal=True, **kwargs)


def test_a_later_token_changes_no_earlier_logit():
    model = language_model().eval()
    tokens = torch.randint(11, (3, 12))
    logits = model(tokens)
    assert logits.shape == (3, 11, 12)
    for t in range(12):
        changed = tokens.clone()
        changed[:, t:] = (changed[:, t:] + 1) % 11
        other = model(changed)
        torch.testing.assert_close(other[:, :, :t], logits[:, :, :t])
        assert not torch.allclose(other[:, :, t], logits[:, :, t])


def test_an_earlier_token_changes_later_logits():
    model = language_model().eval()
    tokens = torch.randint(11, (3, 12))
    changed = tokens.clone()
    changed[:, 0] = (changed[:, 0] + 1) % 11
    assert not torch.allclose(model(changed)[:, :, -1], model(tokens)[:, :, -1], atol=1e-6)


def test_a_language_model_begins_with_no_opinion_and_learns_to_copy_the_token_before():
    tokens = torch.randint(11, (32, 13))
    x, y = tokens[:, 1:], tokens[:, :-1]  # to be had from attention alone
    model = language_model()
    assert float(F.cross_entropy(model(x), y).detach()) == pytest.approx(math.log(11), abs=0.05)
    assert fitted(model, x, y, 150) > 0.9


def test_the_transformer_knows_positions_and_takes_shorter_sequences():
    model = seeded(Transformer, None, 4, 6, 3, 2, 16, 4, 0.0, 0.0).eval()
    x = INPUTS["transformer"]
    assert not torch.allclose(model(x.flip(1)), model(x), atol=1e-6)
    assert model(x[:, :2]).shape == (24, 3)


def test_tokens_with_a_label_for_each_sequence_are_classified():
    x = torch.randint(9, (24, 5))
    model = make_model("transformer", {}, data(x, LABELS), CPU)
    assert model.embed.num_embeddings == int(x.max()) + 1
    assert model(x).shape == (24, 3)
    assert not model.causal


class Rows(Dataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], int(self.y[i])


@pytest.mark.parametrize("kind", [TensorDataset, Rows])
def test_a_token_that_only_the_validation_data_has_is_counted(kind):
    x, rare = torch.arange(72).reshape(24, 3) % 7, torch.full((24, 3), 20)
    both = prepare(kind(x, LABELS), kind(rare, LABELS), "classification")
    assert make_model("transformer", {}, both, CPU).embed.num_embeddings == 21


def test_a_negative_token_is_said():
    with pytest.raises(UserError, match="token -1 is negative"):
        make_model("transformer", {}, data(torch.full((24, 3), -1), LABELS), CPU)


@pytest.mark.parametrize(
    ("width", "heads", "message"),
    [
        (64, 6, r"heads=6 does not divide width=64. Use heads=4 or 8, or width=60 or 66\."),
        (7, 2, r"Use heads=1 or 7, or width=6 or 8\."),
        (4, 8, r"Use heads=4, or width=8\."),
    ],
)
def test_heads_that_do_not_divide_the_width_are_said_with_those_that_do(width, heads, message):
    with pytest.raises(UserError, match=message):
        Transformer(None, 3, 4, 2, 1, width, heads, 0.0, 0.0)


def test_heads_attend_each_in_its_own_way():
    x = INPUTS["transformer"]
    one, four = (seeded(Transformer, None, 4, 6, 3, 1, 16, heads, 0.0, 0.0).eval() for heads in (1, 4))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), four.parameters()))
    assert not torch.equal(one(x), four(x))


def test_attention_is_its_formula():
    block = seeded(Transformer, None, 4, 6, 3, 1, 16, 4, 0.0, 0.0, causal=True).eval().blocks[0]
    x = torch.randn(2, 6, 16)
    q, k, v = (part.unflatten(2, (4, 4)) for part in block.qkv(block.norm1(x)).split(16, 2))
    scores = torch.einsum("nihd,njhd->nhij", q, k) / 2.0
    scores = scores.masked_fill(torch.ones(6, 6).triu(1).bool(), -math.inf).softmax(3)
    after = x + block.proj(torch.einsum("nhij,njhd->nihd", scores, v).flatten(2))
    torch.testing.assert_close(block(x), after + block.down(F.gelu(block.up(block.norm2(after)))))


@pytest.mark.parametrize(
    ("name", "config", "x", "message"),
    [
        ("cnn", {"kernel_size": 4}, INPUTS["cnn"], "kernel_size=4 is not an odd number"),
        ("cnn", {}, torch.zeros(24, 9), r"cnn needs images .* got \(9,\)"),
        ("pointnet", {}, torch.zeros(24, 9, 2), r"pointnet needs clouds .* got \(9, 2\)"),
        ("transformer", {}, torch.zeros(24, 9), r"transformer needs .* got \(9,\)"),
        ("transformer", {"heads": 3}, INPUTS["transformer"], "heads=3 does not divide width=128"),
    ],
)
def test_what_does_not_fit_is_said(name, config, x, message):
    with pytest.raises(UserError, match=message):
        make_model(name, config, data(x, LABELS), CPU)


def test_only_names_and_functions_make_models():
    for name in DEFAULTS:
        check_source(name)
    with pytest.raises(UserError, match="Did you mean 'transformer'"):
        check_source("transformers")
    with pytest.raises(UserError, match="'pointnet', 'transformer' or a function"):
        check_source(nn.Flatten())
